// What a row changes of single tokens, for a sampler that holds the logits elsewhere.
#pragma once

#include <cstdint>
#include <vector>

#include "sampling/history.h"
#include "sampling/sampler.h"

namespace trivet {

// What is to be done to one token, but for what depends on how often it came. Words of 32 bits, read by
// trivet/runtime/cuda/kernels/sampling/edits.py.
struct TokenEdit {
  enum : std::int32_t { kBiased = 1, kImpossible = 2, kRepeats = 4 };

  std::int32_t row, id;
  std::int32_t flags = 0;
  float bias = 0;  // where kBiased
  float dry = 0;   // what "dry" takes off, where kRepeats
};

class EditCollector {
 public:
  explicit EditCollector(std::int32_t vocab_size);

  // One for each token with a bias, a ban or a repetition, and for each allowed one.
  void collect(std::int32_t index, const SampleRow& row, std::vector<TokenEdit>& edits);

 private:
  std::size_t vocab_size_;
  std::vector<std::int32_t> place_;  // by token: one more than its index in `edits`, for the current row
  TokenCounts repetitions_;
};

}  // namespace trivet
