// The tokens of a row that may still be drawn: all scores at first, a list once a stage narrows them down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sampling/candidate.h"
#include "sampling/history.h"

namespace trivet {

// While it holds scores, edits run over one array of floats, and what cannot be kept by the first narrowing
// stage never becomes a candidate.
class Shortlist {
 public:
  // Start with a score for each of `count` tokens; they are copied only if they are changed.
  void begin(const float* scores, std::size_t count) {
    scores_ = scores;
    count_ = count;
    listed_ = false;
    candidates_.clear();
  }

  // The list; by default of all scores but the impossible ones. Does nothing to a list that there is already.
  std::vector<Candidate>& list(float least = kImpossible);
  // With the k best at least, and all equal to the last of them.
  std::vector<Candidate>& list_best(std::int64_t k);
  // With those at least that top_p keeps; `sum` becomes that of e^(score - max) over all.
  std::vector<Candidate>& list_nucleus(float p, double& sum);

  bool listed() const { return listed_; }
  // Whether the token was possible when the list was made.
  bool possible(std::int32_t id) const {
    return static_cast<std::uint32_t>(id) < count_ && scores_[id] != kImpossible;
  }
  // The largest score; kImpossible where there is none.
  float max_score() const;
  // kImpossible for what is not in the list, or no token.
  float score(std::int32_t id) const;
  std::int64_t count_above(float score) const;
  // The sum of e^(score - max).
  double sum_exp(float max) const;

  // The scores, for changes; only before there is a list.
  float* own_scores();

  // score = edit(score, id), for all tokens that are not impossible.
  template <typename Edit>
  void edit(Edit edit) {
    if (listed_) {
      for (Candidate& c : candidates_) c.logit = bounded(edit(c.logit, c.id));
      return;
    }
    float* scores = own_scores();
    for (std::size_t i = 0; i < count_; ++i) {
      const float edited = bounded(edit(scores[i], static_cast<std::int32_t>(i)));
      scores[i] = scores[i] == kImpossible ? kImpossible : edited;
    }
  }

  // The same for the tokens that have a count.
  template <typename Edit>
  void edit(const TokenCounts& counts, Edit edit) {
    if (listed_) {
      for (Candidate& c : candidates_) {
        if (counts[c.id] > 0) c.logit = bounded(edit(c.logit, c.id));
      }
      return;
    }
    if (counts.touched().empty()) return;
    float* scores = own_scores();
    for (std::int32_t id : counts.touched()) {
      if (scores[id] != kImpossible) scores[id] = bounded(edit(scores[id], id));
    }
  }

 private:
  const float* scores_ = nullptr;
  std::size_t count_ = 0;
  std::vector<float> own_;
  bool listed_ = false;
  std::vector<Candidate> candidates_;
  std::vector<float> maxima_;
};

}  // namespace trivet
