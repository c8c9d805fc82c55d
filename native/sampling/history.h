// What the tokens so far say about the next one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sampling/chain.h"

namespace trivet {

// A number for some of the tokens, zero for the others.
class TokenCounts {
 public:
  // All zero, for ids below `vocab_size`; an id outside is ignored by `raise`.
  void reset(std::size_t vocab_size) {
    for (std::int32_t id : touched_) count_[id] = 0;
    touched_.clear();
    count_.resize(vocab_size);
  }
  void add(std::int32_t id) { raise(id, known(id) ? count_[id] + 1 : 0); }
  // Makes it at least `value`, which is above zero.
  void raise(std::int32_t id, std::int32_t value) {
    if (!known(id) || count_[id] >= value) return;
    if (count_[id] == 0) touched_.push_back(id);
    count_[id] = value;
  }
  std::int32_t operator[](std::int32_t id) const { return count_[id]; }
  std::span<const std::int32_t> touched() const { return touched_; }

 private:
  bool known(std::int32_t id) const { return static_cast<std::uint32_t>(id) < count_.size(); }

  std::vector<std::int32_t> count_;
  std::vector<std::int32_t> touched_;
};

// For each token that would continue a repetition of what came before: how long that is, plus one. The
// repetitions end at the last breaker (llama.cpp's form of DRY, by p-e-w); only those long enough for a
// penalty are told.
void find_repetitions(const Chain& chain, std::span<const std::int32_t> history, TokenCounts& lengths);

// What DRY takes off the logit of a token that continues a repetition of `length` tokens.
float dry_penalty(const Chain& chain, std::int32_t length);

// Whether the history ends in all but the last token of `word`.
bool completes(std::span<const std::int32_t> word, std::span<const std::int32_t> history);

}  // namespace trivet
