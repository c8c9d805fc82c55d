#include "program/batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "attention/cache.h"

namespace trivet {
namespace {

std::string at(const char* array, std::int64_t index) {
  return std::string(array) + "[" + std::to_string(index) + "]";
}

[[noreturn]] void refuse(const std::string& what, std::int64_t value, const std::string& rule) {
  throw std::invalid_argument(what + " is " + std::to_string(value) + ", must be " + rule);
}

// So that positions, rounded up to whatever unit, stay in 32 bits.
constexpr std::int32_t kMaxPosition = 1 << 30;

std::string below(std::int64_t end) { return "0 to " + std::to_string(end - 1); }

}  // namespace

void Batch::check(std::int64_t vocabulary, const KvCache& cache) const {
  for (std::int64_t i = 0; vocabulary > 0 && i < tokens; ++i) {
    if (token_ids[i] < 0 || token_ids[i] >= vocabulary)
      refuse(at("token_ids", i), token_ids[i], below(vocabulary));
  }
  for (std::int64_t i = 0; i < outputs; ++i) {
    if (output_rows[i] < 0 || output_rows[i] >= tokens)
      refuse(at("logit_rows", i), output_rows[i], below(tokens));
  }
  if (query_starts[0] != 0) refuse("query_starts[0]", query_starts[0], "0");
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int32_t begin = query_starts[s], end = query_starts[s + 1];
    if (end < begin || end > tokens) {
      refuse(at("query_starts", s + 1), end, std::to_string(begin) + " to " + std::to_string(tokens));
    }
    if (begin == end) continue;
    if (positions[begin] < 0 || positions[begin] > kMaxPosition - (end - begin)) {
      refuse(at("positions", begin), positions[begin],
             "0 or more, and below " + std::to_string(kMaxPosition));
    }
    for (std::int32_t i = begin + 1; i < end; ++i) {
      if (std::int64_t{positions[i]} != std::int64_t{positions[begin]} + (i - begin)) {
        refuse(at("positions", i), positions[i], "one more than the position before it in its sequence");
      }
    }
    const std::int64_t context = std::int64_t{positions[end - 1]} + 1;
    if (context_lens[s] != context) {
      refuse(at("context_lens", s), context_lens[s],
             std::to_string(context) + ", after the last of its positions");
    }
    if (cache.layers().empty()) continue;
    if (cache.blocks() == 0) throw std::invalid_argument("the cache is not allocated");
    const std::int64_t blocks = (context + cache.block_size() - 1) / cache.block_size();
    if (blocks > table_width) {
      refuse(at("context_lens", s), context,
             "at most " + std::to_string(table_width * cache.block_size()) + ", what its block table holds");
    }
    const std::int32_t* table = block_tables + s * table_width;
    const auto [lowest, highest] = std::minmax_element(table, table + blocks);
    for (const std::int32_t* block : {lowest, highest}) {
      if (*block < 0 || *block >= cache.blocks()) {
        refuse(at("block_tables", s) + "[" + std::to_string(block - table) + "]", *block,
               below(cache.blocks()));
      }
    }
  }
  if (query_starts[sequences] != tokens) {
    refuse(at("query_starts", sequences), query_starts[sequences],
           std::to_string(tokens) + ", the number of tokens");
  }
}

}  // namespace trivet
