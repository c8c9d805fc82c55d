// Strings to small integers, made for loading vocabularies quickly: half a million look-ups are a part of
// every start.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "pages.h"

namespace trivet {

// A mixing of 64 bits, the high half of a product folded into the low.
inline std::uint64_t mix_bits(std::uint64_t x) {
  const auto product = static_cast<unsigned __int128>(x ^ 0x9e3779b97f4a7c15u) * 0xd1b54a32d192ed03u;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// Gives each string that is added the next integer, from 0. Open addressing, at most half full; a slot holds
// the first bytes of its string, so that finding a short one touches no other memory.
class StringTable {
 public:
  // expected: strings, a hint.
  explicit StringTable(std::size_t expected) { grow(expected); }

  // The integer of `text`, which is added if it is new.
  std::int32_t add(std::string_view text) {
    const Key key(text);
    Slot* slot = find_slot(text, key);
    if (slot->index < 0) {
      if (2 * count_ >= slots_.size()) {
        grow(2 * count_);
        slot = find_slot(text, key);
      }
      *slot = {key, characters_.size(), static_cast<std::int32_t>(count_++)};
      if (text.size() > kHead) characters_.insert(characters_.end(), text.begin() + kHead, text.end());
    }
    return slot->index;
  }

  // For what will be added or found soon.
  void prefetch(std::string_view text) const {
    __builtin_prefetch(&slots_[Key(text).hash & (slots_.size() - 1)]);
  }

  // -1 where there is none.
  std::int32_t find(std::string_view text) const {
    return const_cast<StringTable*>(this)->find_slot(text, Key(text))->index;
  }

 private:
  static constexpr std::size_t kHead = 8;

  struct Key {
    std::uint64_t head = 0;
    std::uint32_t size = 0, hash = 0;

    Key() = default;
    explicit Key(std::string_view text) : size(static_cast<std::uint32_t>(text.size())) {
      std::memcpy(&head, text.data(), std::min(text.size(), kHead));
      std::uint64_t mixed = mix_bits(head ^ text.size());
      while (text.size() > kHead) {
        text.remove_prefix(kHead);
        std::uint64_t word = 0;
        std::memcpy(&word, text.data(), std::min(text.size(), kHead));
        mixed = mix_bits(mixed ^ word);
      }
      hash = static_cast<std::uint32_t>(mixed);
    }
    bool operator==(const Key&) const = default;
  };
  struct Slot {
    Key key;
    std::size_t tail = 0;  // where the rest of the string is in characters_
    std::int32_t index = -1;
  };

  // Where `text` is, or would go.
  Slot* find_slot(std::string_view text, const Key& key) {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = key.hash & mask;; i = (i + 1) & mask) {
      Slot& slot = slots_[i];
      if (slot.index < 0) return &slot;
      if (slot.key != key) continue;
      if (text.size() <= kHead ||
          text.substr(kHead) == std::string_view(&characters_[slot.tail], text.size() - kHead)) {
        return &slot;
      }
    }
  }

  void grow(std::size_t strings) {
    std::size_t size = 16;
    while (size < 2 * strings + 2) size *= 2;
    std::vector<Slot, PageAllocator<Slot>> old(size);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.index < 0) continue;
      std::size_t i = slot.key.hash & (size - 1);
      while (slots_[i].index >= 0) i = (i + 1) & (size - 1);
      slots_[i] = slot;
    }
  }

  std::vector<Slot, PageAllocator<Slot>> slots_;  // a power of two of them
  std::size_t count_ = 0;
  std::vector<char> characters_;
};

}  // namespace trivet
