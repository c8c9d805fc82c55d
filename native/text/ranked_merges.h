// Byte-pair encoding: which pairs may merge, and which goes first, is a list.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/pair_merging.h"
#include "text/pair_table.h"
#include "text/string_table.h"

namespace trivet {

class RankedMerges {
 public:
  // merges: "left right", the first of a pair counts. byte_tokens: what stands for a byte that no token
  // covers; kNone leaves it out. byte_level: tokens and merges are spelt in GPT-2's alphabet, and words begin
  // as bytes; otherwise words begin as characters. whole_words: a word that is a token is not merged from its
  // parts.
  RankedMerges(const std::vector<std::string_view>& tokens, const std::vector<std::string_view>& merges,
               const std::array<std::int32_t, 256>& byte_tokens, bool byte_level, bool whole_words);

  void encode(std::string_view word, std::vector<Piece>& scratch, std::vector<std::int32_t>& out) const;

 private:
  std::int32_t token_of(std::int32_t symbol) const {
    return symbol < 0 || symbol >= static_cast<std::int32_t>(tokens_.size()) ? kNone : tokens_[symbol];
  }

  StringTable symbols_;               // tokens, then what merges name or make besides
  std::vector<std::int32_t> tokens_;  // by symbol
  PairTable merges_;                  // of symbols
  std::array<std::int32_t, 256> byte_tokens_;
  std::array<std::int32_t, 256> byte_symbols_;
  bool byte_level_, whole_words_;
};

}  // namespace trivet
