#include "sampling/shortlist.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "ops/rows.h"
#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace trivet {
namespace {

constexpr std::size_t kBlock = 64;  // scores that are passed over together where the largest is too small

float max_of(const float* x, std::size_t count) {
  return row_kernels().max(x, static_cast<std::int64_t>(count));
}

}  // namespace

std::vector<Candidate>& Shortlist::list(float least) {
  if (listed_) return candidates_;
  listed_ = true;
  if (least == kImpossible) candidates_.reserve(count_);
  for (std::size_t begin = 0; begin < count_; begin += kBlock) {
    const std::size_t end = std::min(begin + kBlock, count_);
    if (max_of(scores_ + begin, end - begin) < least) continue;
    for (std::size_t i = begin; i < end; ++i) {
      if (scores_[i] >= least && scores_[i] != kImpossible) {
        candidates_.push_back({scores_[i], static_cast<std::int32_t>(i)});
      }
    }
  }
  return candidates_;
}

std::vector<Candidate>& Shortlist::list_best(std::int64_t k) {
  // As many blocks as that have a score each that is no less than the k-th largest of their largest ones.
  const auto blocks = static_cast<std::int64_t>(count_ / kBlock);
  if (listed_ || k > blocks / 2) return list();
  maxima_.clear();
  for (std::size_t begin = 0; begin + kBlock <= count_; begin += kBlock) {
    maxima_.push_back(max_of(scores_ + begin, kBlock));
  }
  const auto kth = maxima_.begin() + (k - 1);
  std::nth_element(maxima_.begin(), kth, maxima_.end(), std::greater<>());
  return list(*kth);
}

std::vector<Candidate>& Shortlist::list_nucleus(float p, double& sum) {
  const float max = max_score();
  sum = sum_exp(max);
  // Tokens of less than (1 - p) / count each have less than 1 - p in all: the others reach p without them.
  // Half of that leaves room for rounding.
  return list(static_cast<float>(max + std::log(sum * 0.5 * (1.0 - p) / static_cast<double>(count_))));
}

float Shortlist::max_score() const {
  if (!listed_) return max_of(scores_, count_);
  return candidates_.empty() ? kImpossible : max_logit(candidates_);
}

float Shortlist::score(std::int32_t id) const {
  if (!listed_) return static_cast<std::uint32_t>(id) < count_ ? scores_[id] : kImpossible;
  const auto found = std::ranges::find(candidates_, id, &Candidate::id);
  return found == candidates_.end() ? kImpossible : found->logit;
}

std::int64_t Shortlist::count_above(float score) const {
  if (!listed_) return std::count_if(scores_, scores_ + count_, [score](float x) { return x > score; });
  return std::ranges::count_if(candidates_, [score](const Candidate& c) { return c.logit > score; });
}

double Shortlist::sum_exp(float max) const {
  return listed_ ? trivet::sum_exp(candidates_, max) : trivet::sum_exp(scores_, count_, max);
}

float* Shortlist::own_scores() {
  if (scores_ != own_.data()) {
    own_.assign(scores_, scores_ + count_);
    scores_ = own_.data();
  }
  return own_.data();
}

}  // namespace trivet
