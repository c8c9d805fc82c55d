#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>

#include "ops/rows.h"
#include "sampling/infill.h"
#include "sampling/random.h"
#include "sampling/softmax.h"
#include "sampling/stages.h"
#include "sampling/watermark.h"

namespace trivet {
namespace {

// Where the first value that equals `value`, which is there, is.
std::int32_t index_of(float value, const float* x, std::size_t count) {
  constexpr std::size_t kBlock = 64;
  std::size_t i = 0;
  for (int found = 0; i + kBlock <= count; i += kBlock) {
    for (std::size_t j = 0; j < kBlock; ++j) found |= x[i + j] == value;
    if (found != 0) break;
  }
  return static_cast<std::int32_t>(std::find(x + i, x + count, value) - x);
}

}  // namespace

Sample Sampler::sample(const float* logits, const SampleRow& row) {
  Sample out;
  const Chain& chain = *row.chain;
  const float max = row_kernels().finite_max(logits, static_cast<std::int64_t>(vocab_size_));
  if (std::isnan(max)) {
    out.error = "non-finite logits";
    return out;
  }
  const bool plain = row.target >= 0 || (chain.plainly_greedy && row.suppressed.empty());
  if (row.target >= 0) {
    out.token = row.target;
  } else if (plain) {
    out.token = index_of(max, logits, vocab_size_);
  } else {
    const std::optional<Candidate> best = run_stages(logits, row);
    if (left_.list().empty()) {
      out.error =
          "no token is possible: logit_bias, allowed_token_ids, bad_words and min_tokens rule out all";
      return out;
    }
    out.state = row.state ? row.state : first_state(chain);
    out.token = best ? best->id
                     : select(chain, left_.list(), draw_key(row.seed, row.position),
                              static_cast<std::int32_t>(vocab_size_), out.state)
                           .id;
  }
  report(logits, row, plain, out);
  return out;
}

void Sampler::report(const float* logits, const SampleRow& row, bool plain, Sample& out) {
  const Chain& chain = *row.chain;
  const bool is_target = row.target >= 0;
  const std::optional<std::int64_t> wanted = is_target ? chain.prompt_logprobs : chain.logprobs;
  if (!wanted || !known(out.token)) return;
  const auto all = static_cast<std::int64_t>(vocab_size_);
  const std::int64_t count = *wanted == Chain::kAllLogprobs ? all : std::min(*wanted, all);
  const bool processed = chain.processed_logprobs && !is_target;
  if (plain || !processed) unmodified_.begin(logits, vocab_size_);
  out.logprobs = logprobs_of(out.token, plain || !processed ? unmodified_ : left_, count,
                             is_target ? std::span<const std::int32_t>() : chain.logprob_ids,
                             processed ? Ties::keep : Ties::cut);
}

std::vector<Candidate> Sampler::candidates(const float* logits, const SampleRow& row) {
  if (const auto best = run_stages(logits, row)) return {*best};
  return left_.list();
}

std::optional<Candidate> Sampler::run_stages(const float* logits, const SampleRow& row) {
  left_.begin(logits, vocab_size_);
  if (mask(row) && left_.max_score() == kImpossible) return std::nullopt;
  for (Stage stage : row.chain->stages) {  // each leaves one at least
    if (stage != Stage::temperature) {
      run_stage(stage, row);
    } else if (const auto best = apply_temperature(*row.chain)) {
      return best;
    }
  }
  return std::nullopt;
}

void Sampler::run_stage(Stage stage, const SampleRow& row) {
  const Chain& chain = *row.chain;
  const std::size_t min_keep = chain.min_keep;
  switch (stage) {
    case Stage::penalties:
      return penalize(row);
    case Stage::tgi_penalties:
      return penalize_as_tgi(row);
    case Stage::dry:
      return discourage_repetition(row);
    case Stage::watermark:
      return watermark(row);
    case Stage::top_k:
    case Stage::tgi_top_k: {
      const std::int64_t k = std::max(chain.top_k, static_cast<std::int64_t>(min_keep));
      return keep_top_k(left_.list_best(k), k, stage == Stage::tgi_top_k ? Ties::keep : Ties::cut);
    }
    case Stage::top_p: {
      if (min_keep > 1) left_.list();
      double sum = 0;
      auto& list = left_.list_nucleus(chain.top_p, sum);
      return keep_top_p(list, chain.top_p, min_keep, sum);
    }
    case Stage::min_p: {
      const bool early = !left_.listed() && min_keep <= 1;
      auto& list = left_.list(early ? left_.max_score() + std::log(chain.min_p) : kImpossible);
      return keep_min_p(list, chain.min_p, min_keep);
    }
    case Stage::typical_p:
      return keep_typical_p(left_.list(), chain.typical_p, min_keep, Ties::cut);
    case Stage::tgi_typical_p:
      return keep_typical_p(left_.list(), chain.typical_p, min_keep, Ties::keep);
    case Stage::top_n_sigma:
      return keep_top_n_sigma(left_.list(), chain.top_n_sigma);
    case Stage::xtc:
      if (uniform(draw_key(row.seed, row.position), kCoin) > chain.xtc_probability) return;
      return exclude_top_choices(left_.list(), chain.xtc_threshold, min_keep);
    case Stage::infill: {
      const auto& ends = chain.end_tokens;
      return keep_infill(left_.list(), chain, !ends.empty() && left_.possible(ends.front()));
    }
    case Stage::temperature:  // `apply_temperature` does it
    case Stage::adaptive_p:
      return;  // `select` does it
  }
}

std::optional<Candidate> Sampler::apply_temperature(const Chain& chain) {
  float temperature = chain.temperature;
  if (chain.dynatemp_range > 0) temperature = dynamic_temperature(left_.list(), chain);
  if (temperature >= Chain::kGreedy) {
    left_.edit([temperature](float logit, std::int32_t) { return logit / temperature; });
    return std::nullopt;
  }
  const auto& list = left_.list(chain.processed_logprobs ? kImpossible : left_.max_score());
  return *std::min_element(list.begin(), list.end(), better);
}

bool Sampler::mask(const SampleRow& row) {
  const Chain& chain = *row.chain;
  if (!chain.logit_bias.empty()) {
    float* scores = left_.own_scores();
    for (auto [id, bias] : chain.logit_bias) {
      if (known(id)) scores[id] = bias == kImpossible ? bias : bounded(scores[id] + bias);
    }
  }
  if (!chain.allowed.empty()) {
    float* scores = left_.own_scores();
    std::vector<float> kept(vocab_size_, kImpossible);
    for (std::int32_t id : chain.allowed) {
      if (known(id)) kept[static_cast<std::size_t>(id)] = scores[id];
    }
    std::copy(kept.begin(), kept.end(), scores);
  }
  const auto output = row.history.subspan(std::min(row.prompt_len, row.history.size()));
  for (const auto& word : chain.bad_words) {
    if (known(word.back()) && completes(word, output)) left_.own_scores()[word.back()] = kImpossible;
  }
  for (std::int32_t id : row.suppressed) {
    if (known(id)) left_.own_scores()[id] = kImpossible;
  }
  return !(chain.logit_bias.empty() && chain.allowed.empty() && chain.bad_words.empty() &&
           row.suppressed.empty());
}

void Sampler::penalize(const SampleRow& row) {
  const Chain& chain = *row.chain;
  std::span<const std::int32_t> window = row.history;
  std::size_t prompt = std::min(row.prompt_len, window.size());
  if (chain.penalty_last_n >= 0) {
    window = window.last(std::min(static_cast<std::size_t>(chain.penalty_last_n), window.size()));
    prompt = 0;  // llama.cpp's rule: the window counts as a whole
  }
  seen_.reset(vocab_size_);
  output_.reset(vocab_size_);
  for (std::int32_t id : window) seen_.add(id);
  for (std::int32_t id : window.subspan(prompt)) output_.add(id);
  left_.edit(seen_, [&](float logit, std::int32_t id) {
    logit = bounded(logit > 0 ? logit / chain.repetition_penalty : logit * chain.repetition_penalty);
    if (output_[id] == 0) return logit;
    return logit - (static_cast<float>(output_[id]) * chain.frequency_penalty + chain.presence_penalty);
  });
}

void Sampler::penalize_as_tgi(const SampleRow& row) {
  const Chain& chain = *row.chain;
  seen_.reset(vocab_size_);
  for (std::int32_t id : row.history) seen_.add(id);
  const auto length = static_cast<float>(row.history.size());
  left_.edit(seen_, [&](float logit, std::int32_t id) {
    logit = bounded(logit < 0 ? logit * chain.repetition_penalty : logit / chain.repetition_penalty);
    return logit - chain.frequency_penalty * static_cast<float>(seen_[id]) / length;
  });
}

void Sampler::discourage_repetition(const SampleRow& row) {
  seen_.reset(vocab_size_);
  find_repetitions(*row.chain, row.history, seen_);
  left_.edit(seen_,
             [&](float logit, std::int32_t id) { return logit - dry_penalty(*row.chain, seen_[id] - 1); });
}

void Sampler::watermark(const SampleRow& row) {
  if (row.history.empty()) return;
  const Watermark watermark(row.history.back(), static_cast<std::int32_t>(vocab_size_));
  left_.edit([&](float logit, std::int32_t id) { return logit + watermark.bonus(id); });
}

}  // namespace trivet
