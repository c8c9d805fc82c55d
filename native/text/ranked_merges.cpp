#include "text/ranked_merges.h"

#include <optional>
#include <span>

namespace trivet {
namespace {

constexpr std::int16_t kOutside = -1;

// GPT-2's alphabet: printable bytes are spelt as the character of that number, the others, in order, as
// U+0100 and on.
struct Alphabet {
  std::array<std::int16_t, 0x144> bytes;  // by character

  constexpr Alphabet() : bytes{} {
    bytes.fill(kOutside);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      bytes[printable ? byte : next++] = static_cast<std::int16_t>(byte);
    }
  }
};

constexpr Alphabet kAlphabet;

// Writes the bytes that a token spells; false if it has characters outside the alphabet.
bool spelt_bytes(std::string_view token, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < token.size();) {
    const std::size_t size = utf8_length(token[i]);
    if (size > 2 || i + size > token.size()) return false;
    const int character = size == 1 ? token[i] & 0x7f : (token[i] & 0x1f) << 6 | (token[i + 1] & 0x3f);
    if (character >= static_cast<int>(kAlphabet.bytes.size()) || kAlphabet.bytes[character] == kOutside)
      return false;
    out += static_cast<char>(kAlphabet.bytes[character]);
    i += size;
  }
  return !out.empty();
}

}  // namespace

RankedMerges::RankedMerges(const std::vector<std::string_view>& tokens,
                           const std::vector<std::string_view>& merges,
                           const std::array<std::int32_t, 256>& byte_tokens, bool byte_level,
                           bool whole_words)
    : symbols_(tokens.size() + tokens.size() / 8),
      merges_(merges.size()),
      byte_tokens_(byte_tokens),
      byte_level_(byte_level),
      whole_words_(whole_words) {
  const auto spell = [byte_level](std::string_view text, std::string& out) {
    if (byte_level) return spelt_bytes(text, out);
    out = text;
    return !out.empty();
  };
  // The tables are larger than caches: some entries are on their way while those before are filled in.
  struct Entry {
    std::string left, right, both;
    std::int32_t number, first, second, symbol;
  };
  std::array<Entry, 32> entries;
  tokens_.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size();) {
    std::size_t count = 0;
    for (; count < entries.size() && id < tokens.size(); ++id) {
      Entry& entry = entries[count];
      if (!spell(tokens[id], entry.left)) continue;
      entry.number = static_cast<std::int32_t>(id);
      symbols_.prefetch(entry.left);
      ++count;
    }
    for (const Entry& entry : std::span(entries).first(count)) {
      const auto symbol = static_cast<std::size_t>(symbols_.add(entry.left));
      if (symbol == tokens_.size()) tokens_.push_back(kNone);
      tokens_[symbol] = entry.number;
    }
  }
  for (std::size_t rank = 0; rank < merges.size();) {
    std::size_t count = 0;
    for (; count < entries.size() && rank < merges.size(); ++rank) {
      Entry& entry = entries[count];
      const std::size_t space = merges[rank].find(' ', 1);
      if (space == std::string_view::npos || !spell(merges[rank].substr(0, space), entry.left) ||
          !spell(merges[rank].substr(space + 1), entry.right)) {
        continue;
      }
      entry.number = static_cast<std::int32_t>(rank);
      entry.both.assign(entry.left).append(entry.right);
      for (const std::string* text : {&entry.left, &entry.right, &entry.both}) symbols_.prefetch(*text);
      ++count;
    }
    const std::span some = std::span(entries).first(count);
    for (Entry& entry : some) {
      entry.first = symbols_.add(entry.left);
      entry.second = symbols_.add(entry.right);
      entry.symbol = symbols_.add(entry.both);
      merges_.prefetch(entry.first, entry.second);
    }
    for (const Entry& entry : some) merges_.add(entry.first, entry.second, {entry.number, entry.symbol});
  }
  for (int byte = 0; byte < 256; ++byte)
    byte_symbols_[byte] = symbols_.find(std::string(1, static_cast<char>(byte)));
}

void RankedMerges::encode(std::string_view word, std::vector<Piece>& pieces,
                          std::vector<std::int32_t>& out) const {
  if (whole_words_) {
    if (const std::int32_t token = token_of(symbols_.find(word)); token != kNone) {
      out.push_back(token);
      return;
    }
  }
  pieces.clear();
  for (std::size_t i = 0; i < word.size();) {
    const std::string_view text = word.substr(i, byte_level_ ? 1 : utf8_length(word[i]));
    append_piece(pieces, text,
                 text.size() == 1 ? byte_symbols_[static_cast<unsigned char>(text[0])] : symbols_.find(text));
    i += text.size();
  }
  merge_pairs(pieces, [this](const Piece& left, const Piece& right) -> std::optional<Merge> {
    const RankedMerge* found = left.id < 0 || right.id < 0 ? nullptr : merges_.find(left.id, right.id);
    if (found == nullptr) return std::nullopt;
    return Merge{static_cast<double>(found->rank), found->symbol};
  });
  for (const Piece& piece : pieces) {
    if (piece.text.empty()) continue;
    if (const std::int32_t token = token_of(piece.id); token != kNone) {
      out.push_back(token);
      continue;
    }
    for (const char byte : piece.text) {
      const std::int32_t token = byte_tokens_[static_cast<unsigned char>(byte)];
      if (token != kNone) out.push_back(token);
    }
  }
}

}  // namespace trivet
