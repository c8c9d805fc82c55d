// From one row of logits to one token: bias and masks, then an ordered chain of stages, then a draw.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace trivet {

enum class Stage { penalties, temperature, top_k, top_p, min_p, typical_p };

struct SamplerParams {
  std::vector<Stage> stages;
  float temperature = 1;  // below kGreedy: the best token after bias and penalties
  std::int64_t top_k = 0;
  float top_p = 1, min_p = 0, typical_p = 1;
  float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
  std::int64_t penalty_last_n = -1;
  std::int64_t logprobs = kNoLogprobs;  // how many of the best to report; kAllLogprobs for the whole vocabulary
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::vector<std::int32_t> allowed;  // empty: all

  static constexpr float kGreedy = 1e-5f;
  static constexpr std::int64_t kNoLogprobs = -2, kAllLogprobs = -1;
};

struct SampleRow {
  SamplerParams params;
  std::uint64_t seed = 0;
  std::uint64_t position = 0;  // tokens before the one drawn
  std::size_t prompt_len = 0;
  std::span<const std::int32_t> history;  // prompt, then output
  std::vector<std::int32_t> suppressed;   // ids that must not be drawn now
  std::int32_t target = -1;               // >= 0: report this token's log-probability and draw nothing
};

struct Sample {
  std::int32_t token = -1;
  const char* error = nullptr;  // static text; the row could not be sampled
  bool has_logprobs = false;
  float logprob = 0;  // of `token`, under the unmodified logits
  std::int64_t rank = 0;
  std::vector<std::pair<std::int32_t, float>> top;
};

struct Candidate {
  float logit;
  std::int32_t id;
};

// Holds scratch memory for one thread. Results depend on the row and its logits alone.
class Sampler {
 public:
  explicit Sampler(std::int32_t vocab_size) : vocab_size_(vocab_size) {}

  // Ids in `row` outside the vocabulary are ignored.
  Sample sample(const float* logits, const SampleRow& row);

  // The candidates that survive the chain, with log-weights; for a greedy row the best one.
  std::span<const Candidate> candidates(const float* logits, const SampleRow& row);

 private:
  bool known(std::int32_t id) const { return id >= 0 && id < vocab_size_; }
  void adjust(const SampleRow& row);
  void count(const SampleRow& row);
  float penalized(float logit, std::int32_t id, const SamplerParams& params) const;
  void run_stages(const SamplerParams& params);
  void report(const float* logits, float max, const SampleRow& row, Sample& out);
  std::int32_t draw(std::span<const Candidate> candidates, std::uint64_t key) const;

  std::int32_t vocab_size_;
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
  std::vector<int> seen_, output_;  // per id: occurrences that the penalties look at
  std::vector<std::int32_t> touched_;     // ids with seen_ > 0; empty between calls, when both counts are zero
};

}  // namespace trivet
