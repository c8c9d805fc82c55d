#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sampling/random.h"
#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace trivet {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// Parameters may drive a logit past float32, or to 0 * inf; the stages need differences that are finite numbers.
float bounded(float logit) {
  constexpr float kMost = 1e30f;
  return logit > -kMost ? std::min(logit, kMost) : -kMost;
}

bool penalizes(const SamplerParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

// Whether the best logit wins as it stands.
bool plainly_greedy(const SampleRow& row) {
  const SamplerParams& p = row.params;
  return p.temperature < SamplerParams::kGreedy && !penalizes(p) && p.logit_bias.empty() && p.allowed.empty() &&
         row.suppressed.empty();
}

}  // namespace

Sample Sampler::sample(const float* logits, const SampleRow& row) {
  Sample out;
  const float max = finite_max(logits, static_cast<std::size_t>(vocab_size_));
  if (std::isnan(max)) {
    out.error = "non-finite logits";
    return out;
  }
  if (row.target >= 0) {
    out.token = row.target;
  } else if (plainly_greedy(row)) {
    out.token = static_cast<std::int32_t>(std::find(logits, logits + vocab_size_, max) - logits);
  } else {
    const std::span<const Candidate> left = candidates(logits, row);
    if (left.empty()) {
      out.error = "no token is possible: logit_bias, allowed_token_ids and min_tokens rule all of them out";
      return out;
    }
    out.token = left.size() == 1 ? left.front().id : draw(left, draw_key(row.seed, row.position));
  }
  if (row.params.logprobs != SamplerParams::kNoLogprobs && known(out.token)) report(logits, max, row, out);
  return out;
}

std::span<const Candidate> Sampler::candidates(const float* logits, const SampleRow& row) {
  const SamplerParams& p = row.params;
  logits_.assign(logits, logits + vocab_size_);
  adjust(row);
  candidates_.clear();
  const bool penalties = std::find(p.stages.begin(), p.stages.end(), Stage::penalties) != p.stages.end();
  if (penalties) count(row);
  if (p.temperature < SamplerParams::kGreedy) {
    for (std::int32_t id : touched_) logits_[id] = penalized(logits_[id], id, p);
    const auto best = std::max_element(logits_.begin(), logits_.end());
    if (*best != kImpossible) candidates_.push_back({*best, static_cast<std::int32_t>(best - logits_.begin())});
  } else {
    candidates_.reserve(logits_.size());
    for (std::int32_t id = 0; id < vocab_size_; ++id) {
      if (logits_[id] != kImpossible) candidates_.push_back({logits_[id], id});
    }
    if (!candidates_.empty()) run_stages(p);
  }
  for (std::int32_t id : touched_) seen_[id] = output_[id] = 0;
  touched_.clear();
  return candidates_;
}

void Sampler::run_stages(const SamplerParams& p) {
  for (Stage stage : p.stages) {
    switch (stage) {
      case Stage::penalties:
        if (touched_.empty()) break;
        for (Candidate& c : candidates_) c.logit = penalized(c.logit, c.id, p);
        break;
      case Stage::temperature:
        for (Candidate& c : candidates_) c.logit = bounded(c.logit / p.temperature);
        break;
      case Stage::top_k: keep_top_k(candidates_, p.top_k); break;
      case Stage::top_p: keep_top_p(candidates_, p.top_p); break;
      case Stage::min_p: keep_min_p(candidates_, p.min_p); break;
      case Stage::typical_p: keep_typical_p(candidates_, p.typical_p); break;
    }
  }
}

void Sampler::adjust(const SampleRow& row) {
  for (auto [id, bias] : row.params.logit_bias) {
    if (known(id)) logits_[id] = bias == kImpossible ? bias : bounded(logits_[id] + bias);
  }
  if (!row.params.allowed.empty()) {
    std::vector<float> kept(logits_.size(), kImpossible);
    for (std::int32_t id : row.params.allowed) {
      if (known(id)) kept[id] = logits_[id];
    }
    logits_.swap(kept);
  }
  for (std::int32_t id : row.suppressed) {
    if (known(id)) logits_[id] = kImpossible;
  }
}

void Sampler::count(const SampleRow& row) {
  const SamplerParams& p = row.params;
  if (!penalizes(p)) return;
  seen_.resize(static_cast<std::size_t>(vocab_size_));
  output_.resize(static_cast<std::size_t>(vocab_size_));
  std::span<const std::int32_t> window = row.history;
  std::size_t prompt = std::min(row.prompt_len, window.size());
  if (p.penalty_last_n >= 0) {
    window = window.last(std::min(static_cast<std::size_t>(p.penalty_last_n), window.size()));
    prompt = 0;  // llama.cpp's rule: the window counts as a whole
  }
  for (std::size_t i = 0; i < window.size(); ++i) {
    const std::int32_t id = window[i];
    if (!known(id)) continue;
    if (seen_[id]++ == 0) touched_.push_back(id);
    if (i >= prompt) ++output_[id];
  }
}

float Sampler::penalized(float logit, std::int32_t id, const SamplerParams& p) const {
  if (seen_[id] == 0 || logit == kImpossible) return logit;
  logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  if (output_[id] > 0) logit -= static_cast<float>(output_[id]) * p.frequency_penalty + p.presence_penalty;
  return bounded(logit);
}

std::int32_t Sampler::draw(std::span<const Candidate> candidates, std::uint64_t key) const {
  // A race of exponential clocks: the least -ln(u) / w wins with probability proportional to w. Every token has a
  // random number of its own, so the winner does not depend on the candidates' order.
  float max = candidates.front().logit;
  for (const Candidate& c : candidates) max = std::max(max, c.logit);
  double best = std::numeric_limits<double>::infinity();
  std::int32_t winner = candidates.front().id;
  for (const Candidate& c : candidates) {
    const double weight = exp_nonpositive(c.logit - max);
    const double u = uniform(key, static_cast<std::uint32_t>(c.id));
    if (weight == 0 || 1 - u > best * weight) continue;  // -ln(u) >= 1 - u: saves nearly all logarithms
    const double time = -std::log(u) / weight;
    if (time < best || (time == best && c.id < winner)) {
      best = time;
      winner = c.id;
    }
  }
  return winner;
}

void Sampler::report(const float* logits, float max, const SampleRow& row, Sample& out) {
  const double log_sum = max + std::log(sum_exp(logits, static_cast<std::size_t>(vocab_size_), max));
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  const float own = logits[out.token];
  out.has_logprobs = true;
  out.logprob = logprob(own);
  out.rank = 1 + std::count_if(logits, logits + vocab_size_, [own](float x) { return x > own; });
  std::int64_t count = row.params.logprobs;
  if (count == SamplerParams::kAllLogprobs || count > vocab_size_) count = vocab_size_;
  if (count == 0) return;
  std::vector<Candidate> all(static_cast<std::size_t>(vocab_size_));
  for (std::int32_t id = 0; id < vocab_size_; ++id) all[id] = {logits[id], id};
  keep_top_k(all, count);
  std::sort(all.begin(), all.end(), better);
  for (const Candidate& c : all) out.top.emplace_back(c.id, logprob(c.logit));
}

}  // namespace trivet
