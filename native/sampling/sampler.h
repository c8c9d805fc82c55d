// From one row of logits to one token: bias and masks, then an ordered chain of stages, then a choice.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sampling/chain.h"
#include "sampling/history.h"
#include "sampling/logprobs.h"
#include "sampling/selectors.h"
#include "sampling/shortlist.h"

namespace trivet {

struct SampleRow {
  const Chain* chain = nullptr;
  std::uint64_t seed = 0;
  std::uint64_t position = 0;  // tokens before the one drawn
  std::size_t prompt_len = 0;
  std::span<const std::int32_t> history;  // prompt, then output
  std::vector<std::int32_t> suppressed;   // ids that must not be drawn now
  std::int32_t target = -1;               // >= 0: report this token's log-probability and draw nothing
  std::optional<SelectorState> state;     // what the choice before left; none before the first
};

struct Sample {
  std::int32_t token = -1;
  const char* error = nullptr;  // static text; the row could not be sampled
  std::optional<Logprobs> logprobs;
  std::optional<SelectorState> state;  // for the row of the next token
};

// Holds scratch memory for one thread. Results depend on the row and its logits alone.
class Sampler {
 public:
  explicit Sampler(std::int32_t vocab_size) : vocab_size_(static_cast<std::size_t>(vocab_size)) {}

  // Ids in `row` outside the vocabulary are ignored.
  Sample sample(const float* logits, const SampleRow& row);

  // The candidates that the stages leave, with log-weights; for a greedy row the best one.
  std::vector<Candidate> candidates(const float* logits, const SampleRow& row);

 private:
  bool known(std::int32_t id) const { return static_cast<std::uint32_t>(id) < vocab_size_; }

  // Returns the token to take where the temperature is zero, the best of those left.
  std::optional<Candidate> run_stages(const float* logits, const SampleRow& row);
  void run_stage(Stage stage, const SampleRow& row);
  std::optional<Candidate> apply_temperature(const Chain& chain);
  // What stands before the stages; returns whether there is any.
  bool mask(const SampleRow& row);
  void penalize(const SampleRow& row);
  void penalize_as_tgi(const SampleRow& row);
  void discourage_repetition(const SampleRow& row);
  void watermark(const SampleRow& row);
  // `plain`: the stages did not run.
  void report(const float* logits, const SampleRow& row, bool plain, Sample& out);

  std::size_t vocab_size_;
  Shortlist left_, unmodified_;
  TokenCounts seen_, output_;
};

}  // namespace trivet
