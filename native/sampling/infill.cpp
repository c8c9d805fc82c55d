#include "sampling/infill.h"

#include <algorithm>
#include <unordered_map>

#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace trivet {
namespace {

// Probabilities are sums of integers here, which no order of summation changes: the weight of the best is
// kOne.
constexpr double kOne = 0x1p44;

struct Text {
  std::int32_t id;
  float weight;
  std::int64_t mass;
  std::ptrdiff_t shorter = -1;  // the longest other one that begins it
  std::int32_t depth = 0;       // how many tokens begin it, candidates or not

  bool likelier_than(const Text& other) const {
    if (weight != other.weight) return weight > other.weight;
    return depth != other.depth ? depth < other.depth : id < other.id;
  }
};

void find_beginnings(std::vector<Text>& texts, const std::vector<std::int32_t>& parents) {
  std::unordered_map<std::int32_t, std::ptrdiff_t> places;
  for (std::size_t i = 0; i < texts.size(); ++i) places[texts[i].id] = static_cast<std::ptrdiff_t>(i);
  const auto parent = [&](std::int32_t id) {
    return static_cast<std::size_t>(id) < parents.size() ? parents[static_cast<std::size_t>(id)] : -1;
  };
  for (Text& text : texts) {
    for (std::int32_t id = parent(text.id); id >= 0; id = parent(id)) {
      ++text.depth;
      if (text.shorter >= 0) continue;
      if (const auto found = places.find(id); found != places.end()) text.shorter = found->second;
    }
  }
}

// llama.cpp takes the texts in order, the likeliest first (here the shorter first of equal ones), and of each
// two of which one begins the other gives the likelier all of the other's mass. Those that are left with any
// are the likeliest of the texts that begin with them, and begin with none of that kind themselves. The mass
// of every other text goes to the one of that kind that it begins with or, where there is none, to the
// likeliest that begins with it.
std::vector<std::int64_t> merged_masses(std::vector<Text>& texts, const std::vector<std::int32_t>& parents) {
  find_beginnings(texts, parents);
  const auto count = static_cast<std::ptrdiff_t>(texts.size());
  std::vector<std::ptrdiff_t> best(texts.size());  // of those that begin with each
  for (std::ptrdiff_t i = 0; i < count; ++i) best[i] = i;
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    for (std::ptrdiff_t j = texts[i].shorter; j >= 0; j = texts[j].shorter) {
      if (texts[i].likelier_than(texts[best[j]])) best[j] = i;
    }
  }
  std::vector<std::int64_t> merged(texts.size());
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    std::ptrdiff_t into = best[i];
    for (std::ptrdiff_t j = i; j >= 0; j = texts[j].shorter) {
      if (best[j] == j) into = j;
    }
    merged[into] += texts[i].mass;
  }
  return merged;
}

}  // namespace

void keep_infill(std::vector<Candidate>& candidates, const Chain& chain, bool end_is_possible) {
  constexpr double kLeast = 0.2;
  const auto ends = [&](const Candidate& c) {
    return std::ranges::find(chain.end_tokens, c.id) != chain.end_tokens.end();
  };
  const float max = max_logit(candidates);
  std::vector<Text> texts;
  std::int64_t end_mass = 0, text_mass = 0;
  for (const Candidate& c : candidates) {
    const float weight = exp_nonpositive(c.logit - max);
    texts.push_back({c.id, weight, static_cast<std::int64_t>(weight * kOne)});
    (ends(c) ? end_mass : text_mass) += texts.back().mass;
  }
  if (3 * static_cast<double>(end_mass) * static_cast<double>(candidates.size()) >
      static_cast<double>(text_mass)) {
    std::erase_if(candidates, [&](const Candidate& c) { return !ends(c); });
    return;
  }
  std::vector<std::int64_t> merged = merged_masses(texts, chain.piece_parents);
  const Candidate best = *std::min_element(candidates.begin(), candidates.end(), better);
  double least = kLeast * static_cast<double>(end_mass + text_mass);
  for (int pass = 0; pass < 2; ++pass) {
    std::int64_t sum = 0;
    std::size_t kept = 0, count = 0;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const bool end = ends(candidates[i]);
      if (!end && static_cast<double>(merged[i]) < least) continue;
      if (!end) ++count;
      sum += merged[i];
      candidates[kept] = candidates[i];
      merged[kept++] = merged[i];
    }
    candidates.resize(kept);
    if (pass == 0 && count == 0) {
      const bool end = end_is_possible && !chain.end_tokens.empty();
      candidates = {end ? Candidate{0, chain.end_tokens.front()} : best};
      return;
    }
    least = static_cast<double>(sum) / static_cast<double>(count + 1);  // the mean, were the ends one
  }
}

}  // namespace trivet
