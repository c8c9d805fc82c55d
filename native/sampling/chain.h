// One request's way from logits to a token: its parameters, and the stages that do something with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace trivet {

// In the order of `kStageNames`. `adaptive_p` chooses the token, wherever it stands.
enum class Stage {
  penalties,
  dry,
  top_n_sigma,
  top_k,
  typical_p,
  top_p,
  min_p,
  xtc,
  temperature,
  adaptive_p,
  infill,
  watermark,
  tgi_penalties,
  tgi_top_k,
  tgi_typical_p,
};

// The stage of a name in trivet.sampling.params. Throws std::invalid_argument.
Stage stage_named(std::string_view name);

// How one of the candidates that are left is chosen.
enum class Selector { draw, mirostat_v1, mirostat_v2, adaptive_p };

// The token sequences at which a repetition ends.
struct Breakers {
  std::unordered_set<std::int32_t> single;
  std::vector<std::vector<std::int32_t>> tails;  // of the longer ones, without their first tokens
  std::unordered_map<std::int32_t, std::vector<std::size_t>> longer;  // by first token: indices of `tails`

  void add(const std::vector<std::int32_t>& first, std::vector<std::int32_t> tail);
};

struct Chain {
  std::vector<Stage> stages;
  float temperature = 1;  // below kGreedy the best candidate is taken
  float dynatemp_range = 0, dynatemp_exponent = 1;
  std::int64_t top_k = 0;
  float top_p = 1, min_p = 0, typical_p = 1, top_n_sigma = 0;
  std::size_t min_keep = 0;
  float xtc_probability = 0, xtc_threshold = 0.1f;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  std::int64_t penalty_last_n = -1;
  float dry_multiplier = 0, dry_base = 1.75f;
  std::int64_t dry_allowed_length = 2, dry_penalty_last_n = -1;
  Breakers dry_breakers;
  std::int64_t mirostat = 0;
  double mirostat_tau = 5, mirostat_eta = 0.1;
  double adaptive_target = -1, adaptive_decay = 0.9;
  bool watermark = false;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::int32_t> end_tokens;              // those that end generation
  std::vector<std::int32_t> piece_parents;           // of each token the longest that begins its text, or -1
  std::vector<std::int32_t> allowed;                 // empty: all
  std::vector<std::vector<std::int32_t>> bad_words;  // the last token of each must not follow the others
  std::optional<std::int64_t> logprobs,
      prompt_logprobs;                    // how many of the best to report; kAllLogprobs for all
  std::vector<std::int32_t> logprob_ids;  // reported instead of the best, where there are any
  bool processed_logprobs = false;  // those of the candidates that are left, not of the unmodified logits

  // Set by `compile`.
  Selector selector = Selector::draw;
  bool plainly_greedy = false;  // the best logit wins as it stands, where no token is suppressed
  bool needs_history = false;   // the choice depends on the tokens before it, or on what their choice left

  static constexpr float kGreedy = 1e-5f;
  static constexpr std::int64_t kAllLogprobs = -1;

  bool greedy() const { return temperature < kGreedy && dynatemp_range <= 0; }
  // Drops the stages that do nothing. To be called once, when all parameters are set.
  void compile();

 private:
  bool acts(Stage stage) const;
};

}  // namespace trivet
