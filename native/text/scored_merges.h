// SentencePiece's kind of BPE: any two neighbours that make a token may merge, and the token's score says
// which first.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/pair_merging.h"
#include "text/token_table.h"

namespace trivet {

class ScoredMerges {
 public:
  // tokens: an empty one stands for no text. byte_tokens: what stands for the bytes of a character that is no
  // token; where one is kNone, `unknown` stands for the whole character.
  ScoredMerges(const std::vector<std::string_view>& tokens, const std::vector<float>& scores,
               const std::array<std::int32_t, 256>& byte_tokens, std::int32_t unknown);

  void encode(std::string_view text, std::vector<Piece>& scratch, std::vector<std::int32_t>& out) const;

 private:
  TokenTable tokens_;
  std::vector<float> scores_;  // by token
  std::array<std::int32_t, 256> byte_tokens_;
  std::int32_t unknown_;
};

}  // namespace trivet
