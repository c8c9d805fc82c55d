#include "sampling/edits.h"

#include <algorithm>

namespace trivet {

EditCollector::EditCollector(std::int32_t vocab_size)
    : vocab_size_(static_cast<std::size_t>(vocab_size)), place_(vocab_size_) {}

void EditCollector::collect(std::int32_t index, const SampleRow& row, std::vector<TokenEdit>& edits) {
  const Chain& chain = *row.chain;
  const std::size_t begin = edits.size();
  const auto known = [this](std::int32_t id) { return static_cast<std::uint32_t>(id) < vocab_size_; };
  const auto edit_of = [&](std::int32_t id) -> TokenEdit& {
    std::int32_t& place = place_[static_cast<std::size_t>(id)];
    if (place == 0) {
      edits.push_back({index, id});
      place = static_cast<std::int32_t>(edits.size());
    }
    return edits[static_cast<std::size_t>(place - 1)];
  };
  for (std::int32_t id : chain.allowed) {
    if (known(id)) edit_of(id);
  }
  const auto forbid = [&](std::int32_t id) {
    if (known(id)) edit_of(id).flags |= TokenEdit::kImpossible;
  };
  for (auto [id, bias] : chain.logit_bias) {
    // What is not allowed stays impossible, with or without a bias.
    if (!known(id) || (!chain.allowed.empty() && place_[static_cast<std::size_t>(id)] == 0)) continue;
    if (bias == kImpossible) {
      forbid(id);
    } else {
      edit_of(id).flags |= TokenEdit::kBiased;
      edit_of(id).bias = bias;
    }
  }
  const auto output = row.history.subspan(std::min(row.prompt_len, row.history.size()));
  for (const auto& word : chain.bad_words) {
    if (completes(word, output)) forbid(word.back());
  }
  for (std::int32_t id : row.suppressed) forbid(id);

  if (std::ranges::find(chain.stages, Stage::dry) != chain.stages.end()) {
    repetitions_.reset(vocab_size_);
    find_repetitions(chain, row.history, repetitions_);
    for (std::int32_t id : repetitions_.touched()) {
      if (!chain.allowed.empty() && place_[static_cast<std::size_t>(id)] == 0) continue;
      edit_of(id).flags |= TokenEdit::kRepeats;
      edit_of(id).dry = dry_penalty(chain, repetitions_[id] - 1);
    }
  }
  for (std::size_t i = begin; i < edits.size(); ++i) place_[static_cast<std::size_t>(edits[i].id)] = 0;
}

}  // namespace trivet
