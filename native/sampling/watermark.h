// TGI's watermark (Kirchenbauer et al. 2023): the token before decides which half of the vocabulary gets a
// bonus.
#pragma once

#include <cstdint>

#include "sampling/random.h"

namespace trivet {

class Watermark {
 public:
  static constexpr double kGamma = 0.5;  // the share of the vocabulary that is favoured
  static constexpr float kDelta = 2.0f;  // what is added to its logits

  Watermark(std::int32_t last_token, std::int32_t vocab_size)
      : place_(kPrime * static_cast<std::uint64_t>(last_token), static_cast<std::uint32_t>(vocab_size)),
        favoured_(static_cast<std::uint32_t>(kGamma * vocab_size)) {}

  float bonus(std::int32_t id) const {
    return place_(static_cast<std::uint32_t>(id)) < favoured_ ? kDelta : 0.0f;
  }

 private:
  static constexpr std::uint64_t kPrime = 15485863;

  Permutation place_;
  std::uint32_t favoured_;
};

}  // namespace trivet
