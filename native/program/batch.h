// One step's plan as the native side sees it: trivet/engine/plan.py, without what concerns sampling.
#pragma once

#include <cstdint>

namespace trivet {

class KvCache;

// What a value has a row for: each token of the step, or each of those whose logits are asked for.
enum class Rows { tokens, outputs };

struct Batch {
  const std::int32_t* token_ids;     // [tokens]
  const std::int32_t* positions;     // [tokens]
  const std::int32_t* query_starts;  // [sequences + 1]
  const std::int32_t* context_lens;  // [sequences]
  const std::int32_t* block_tables;  // [sequences][table_width]
  const std::int32_t* output_rows;   // [outputs]
  const float* hidden;               // [tokens][width of the input operation], where there is one
  std::int64_t tokens, sequences, table_width, outputs;

  std::int64_t rows(Rows kind) const { return kind == Rows::tokens ? tokens : outputs; }

  // Throws std::invalid_argument, saying which value is wrong, unless every index that the program will
  // follow is inside the vocabulary (0: no token is looked up), the cache and these arrays.
  void check(std::int64_t vocabulary, const KvCache& cache) const;
};

}  // namespace trivet
