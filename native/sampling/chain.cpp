#include "sampling/chain.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace trivet {
namespace {

constexpr std::array<std::string_view, 15> kStageNames = {
    "penalties", "dry",       "top_n_sigma",   "top_k",       "typical_p",
    "top_p",     "min_p",     "xtc",           "temperature", "adaptive_p",
    "infill",    "watermark", "tgi_penalties", "tgi_top_k",   "tgi_typical_p"};

}  // namespace

Stage stage_named(std::string_view name) {
  const auto found = std::find(kStageNames.begin(), kStageNames.end(), name);
  if (found == kStageNames.end())
    throw std::invalid_argument("unknown sampling stage '" + std::string(name) + "'");
  return static_cast<Stage>(found - kStageNames.begin());
}

void Breakers::add(const std::vector<std::int32_t>& first, std::vector<std::int32_t> tail) {
  if (tail.empty()) {
    single.insert(first.begin(), first.end());
    return;
  }
  for (std::int32_t id : first) longer[id].push_back(tails.size());
  tails.push_back(std::move(tail));
}

void Chain::compile() {
  const auto has = [this](Stage stage) {
    return std::find(stages.begin(), stages.end(), stage) != stages.end();
  };
  if (mirostat != 0) {  // llama.cpp's rule
    stages = {Stage::temperature};
    dynatemp_range = 0;
    selector = mirostat == 1 ? Selector::mirostat_v1 : Selector::mirostat_v2;
  } else if (has(Stage::adaptive_p) && adaptive_target >= 0) {
    selector = Selector::adaptive_p;
  }
  std::erase_if(stages, [this](Stage stage) { return !acts(stage); });
  needs_history = selector != Selector::draw || !bad_words.empty() ||
                  std::any_of(stages.begin(), stages.end(), [](Stage stage) {
                    return stage == Stage::penalties || stage == Stage::tgi_penalties ||
                           stage == Stage::dry || stage == Stage::watermark;
                  });
  // Stages that never drop the best one may stand before the temperature.
  const auto other = std::find_if(stages.begin(), stages.end(), [](Stage stage) {
    return stage != Stage::top_n_sigma && stage != Stage::top_k && stage != Stage::tgi_top_k &&
           stage != Stage::top_p && stage != Stage::min_p;
  });
  plainly_greedy = other != stages.end() && *other == Stage::temperature && greedy() && logit_bias.empty() &&
                   allowed.empty() && bad_words.empty() &&
                   !(processed_logprobs && other != stages.begin());  // what the narrowing left is asked for
}

bool Chain::acts(Stage stage) const {
  switch (stage) {
    case Stage::penalties:
      return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0;
    case Stage::tgi_penalties:
      return repetition_penalty != 1 || frequency_penalty != 0;
    case Stage::dry:
      return dry_multiplier != 0 && dry_base >= 1 && dry_penalty_last_n != 0;
    case Stage::top_n_sigma:
      return top_n_sigma > 0;
    case Stage::top_k:
    case Stage::tgi_top_k:
      return top_k > 0;
    case Stage::typical_p:
    case Stage::tgi_typical_p:
      return typical_p < 1;
    case Stage::top_p:
      return top_p < 1;
    case Stage::min_p:
      return min_p > 0;
    case Stage::xtc:
      return xtc_probability > 0 && xtc_threshold <= 0.5f;
    case Stage::temperature:
      return temperature != 1 || dynatemp_range > 0;
    case Stage::adaptive_p:
      return false;  // the selector does it
    case Stage::infill:
      return true;
    case Stage::watermark:
      return watermark;
  }
  return true;
}

}  // namespace trivet
