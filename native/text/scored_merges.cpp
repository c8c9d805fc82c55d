#include "text/scored_merges.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace trivet {

ScoredMerges::ScoredMerges(const std::vector<std::string_view>& tokens, const std::vector<float>& scores,
                           const std::array<std::int32_t, 256>& byte_tokens, std::int32_t unknown)
    : tokens_(tokens), scores_(scores), byte_tokens_(byte_tokens), unknown_(unknown) {}

void ScoredMerges::encode(std::string_view text, std::vector<Piece>& pieces,
                          std::vector<std::int32_t>& out) const {
  pieces.clear();
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view character = text.substr(i, utf8_length(text[i]));
    append_piece(pieces, character, tokens_.find(character));
    i += character.size();
  }
  merge_pairs(pieces, [&](const Piece& left, const Piece& right) -> std::optional<Merge> {
    const std::int32_t token = tokens_.find({left.text.data(), left.text.size() + right.text.size()});
    if (token == kNone) return std::nullopt;
    return Merge{-static_cast<double>(scores_[token]), token};
  });
  for (const Piece& piece : pieces) {
    if (piece.text.empty()) continue;
    const auto byte_token = [this](char byte) { return byte_tokens_[static_cast<unsigned char>(byte)]; };
    if (piece.id != kNone) {
      out.push_back(piece.id);
    } else if (std::ranges::any_of(piece.text, [&](char byte) { return byte_token(byte) == kNone; })) {
      out.push_back(unknown_);
    } else {
      std::ranges::transform(piece.text, std::back_inserter(out), byte_token);
    }
  }
}

}  // namespace trivet
