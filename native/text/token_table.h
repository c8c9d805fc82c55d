// The texts of a vocabulary to their ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/pair_merging.h"
#include "text/string_table.h"

namespace trivet {

class TokenTable {
 public:
  // Of equal texts the last counts.
  explicit TokenTable(const std::vector<std::string_view>& tokens) : texts_(tokens.size()) {
    ids_.reserve(tokens.size());
    constexpr std::size_t kAhead = 16;  // the table is larger than caches
    for (std::size_t id = 0; id < tokens.size(); ++id) {
      if (id + kAhead < tokens.size()) texts_.prefetch(tokens[id + kAhead]);
      const auto index = static_cast<std::size_t>(texts_.add(tokens[id]));
      if (index == ids_.size()) ids_.push_back(kNone);
      ids_[index] = static_cast<std::int32_t>(id);
    }
  }

  // kNone where there is none.
  std::int32_t find(std::string_view text) const {
    const std::int32_t index = texts_.find(text);
    return index < 0 ? kNone : ids_[index];
  }

 private:
  StringTable texts_;
  std::vector<std::int32_t> ids_;  // by index in texts_
};

}  // namespace trivet
