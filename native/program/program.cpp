#include "program/program.h"

#include <algorithm>
#include <exception>
#include <stdexcept>

namespace trivet {

Program::Program(int threads, const std::vector<Slot>& slots, CacheTypes cache_types,
                 const std::vector<std::pair<int, int>>& cache_layers, Numerics numerics)
    : team_(threads), cache_(cache_types, cache_layers), numerics_(numerics) {
  std::vector<std::int64_t> strides;
  for (const Slot& slot : slots) {
    if (slot.width < 1 || slot.width > 1 << 30 || slot.buffer < -1 ||
        slot.buffer >= static_cast<std::int64_t>(slots.size())) {
      throw std::invalid_argument("a value cannot have " + std::to_string(slot.width) +
                                  " columns in buffer " + std::to_string(slot.buffer));
    }
    if (slot.buffer < 0) continue;
    if (slot.buffer >= static_cast<std::int64_t>(strides.size())) strides.resize(slot.buffer + 1);
    strides[slot.buffer] = std::max(strides[slot.buffer], row_stride(slot.width));
  }
  for (const std::int64_t floats : strides) buffers_.push_back(std::make_unique<Buffer>(floats));
  for (const Slot& slot : slots) {
    values_.push_back({slot.buffer < 0 ? nullptr : buffers_[slot.buffer].get(), slot.width});
  }
}

std::shared_ptr<const float> Program::run(const Batch& batch) {
  const std::unique_lock lock = exclusive();
  if (!result_) throw std::invalid_argument("the program has no logits operation, nor an output");
  complete_ = true;
  batch.check(vocabulary_, cache_);
  for (const auto& buffer : buffers_) buffer->reserve(std::max(batch.tokens, batch.outputs));
  for (const auto& rotary : rotaries_) rotary->table.reserve(batch.tokens);
  result_->reserve(batch.rows(result_rows_));
  const int members = useful_members(batch);
  for (const auto& schedule : schedules_) {
    schedule->build({static_cast<int>(batch.sequences), batch.query_starts, batch.positions,
                     batch.block_tables, static_cast<int>(batch.table_width)},
                    members);
  }
  for (const Instruction& instruction : instructions_) instruction.step->prepare(batch, members);
  if (batch.tokens > 0) {
    team_.run(members, [&](int member) { execute(batch, {member, members}); });
  }
  return {result_->data(), result_->row(0)};
}

// Members meet before a step that depends on what others did. What is one member's work, the last to come
// does while the others wait, and they need not meet again after it.
void Program::execute(const Batch& batch, Worker worker) {
  bool met = true;
  for (auto next = instructions_.begin(); next != instructions_.end();) {
    const auto together =
        std::find_if(next, instructions_.end(), [&](const Instruction& i) { return !i.step->alone(batch); });
    if (together != next) {
      team_.barrier([&] {
        for (; next != together; ++next) next->step->run(batch, {0, 1});
      });
      next = together;
      met = true;
      continue;
    }
    if (next->barrier && !met) team_.barrier();
    met = false;
    next->step->run(batch, worker);
    ++next;
  }
}

// A member is worth its barriers when it has at least kMemberWork bytes to go over between two of them: some
// microseconds. Weights count once for every row, keys and values once for every query.
int Program::useful_members(const Batch& batch) const {
  constexpr double kMemberWork = 64 << 10;
  double context = 0;
  for (std::int64_t s = 0; s < batch.sequences; ++s) {
    context +=
        static_cast<double>(batch.context_lens[s]) * (batch.query_starts[s + 1] - batch.query_starts[s]);
  }
  const double token_bytes = static_cast<double>(cache_.block_bytes(CacheLayer::kTile)) / CacheLayer::kTile;
  const double work = static_cast<double>(weight_bytes_) * batch.tokens + token_bytes * context;
  const auto barriers =
      std::count_if(instructions_.begin(), instructions_.end(), [](const auto& i) { return i.barrier; });
  return static_cast<int>(
      std::clamp(work / (kMemberWork * (barriers + 1)), 1.0, static_cast<double>(threads())));
}

void Program::for_each(std::int64_t count, int members,
                       const std::function<void(int member, std::int64_t index)>& f) {
  const std::unique_lock lock = exclusive();
  Claims claims;
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(members));
  team_.run(members, [&](int member) {
    const KeepSubnormals mode;
    try {
      for (std::int64_t i = claims.next(); i < count; i = claims.next()) f(member, i);
    } catch (...) {
      failures[static_cast<std::size_t>(member)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

void Program::allocate_cache(std::int64_t blocks, std::int64_t block_size) {
  const std::unique_lock lock = exclusive();
  cache_.allocate(blocks, block_size);
}

std::unique_lock<std::mutex> Program::exclusive() {
  std::unique_lock lock(busy_, std::try_to_lock);
  if (!lock) throw std::runtime_error("the program is at work for another thread");
  return lock;
}

std::vector<std::string> Program::listing() const {
  std::vector<std::string> names;
  for (const Instruction& instruction : instructions_) {
    if (instruction.barrier) names.push_back("|");
    names.push_back(instruction.step->name());
  }
  return names;
}

// Two steps that meet on some memory need a barrier between them, unless each thread keeps to its own rows in
// both.
void Program::append(std::unique_ptr<Step> step) {
  if (complete_) throw std::invalid_argument("the program has run and cannot grow any more");
  bool barrier = false;
  for (const Access& access : step->accesses()) {
    for (const Access& earlier : since_barrier_) barrier |= access.conflicts(earlier);
  }
  if (barrier) since_barrier_.clear();
  since_barrier_.insert(since_barrier_.end(), step->accesses().begin(), step->accesses().end());
  if (!barrier && !instructions_.empty()) {
    auto* last = dynamic_cast<RowStep*>(instructions_.back().step.get());
    auto* next = dynamic_cast<RowStep*>(step.get());
    if (last != nullptr && next != nullptr && last->absorb(*next)) return;
  }
  instructions_.push_back({std::move(step), barrier});
}

void Program::append_rows(std::string name, const std::vector<const Value*>& inputs,
                          const std::vector<const Value*>& outputs, RowStep::Body body) {
  const Rows rows = outputs.front()->rows;
  std::vector<Access> accesses;
  for (const Value* value : inputs) accesses.push_back(reads(value->buffer, by_row(rows)));
  for (const Value* value : outputs) accesses.push_back(writes(value->buffer, by_row(rows)));
  append(std::make_unique<RowStep>(std::move(name), rows, std::move(accesses), std::move(body)));
}

void Program::append_linear(std::string name, const Value& input, std::vector<Projection> projections,
                            Inputs inputs, float scale, float softcap) {
  PackedRows& rows = packed(input.width);
  std::vector<Format> weights;
  for (const Projection& p : projections) weights.push_back(p.matrix->format());
  append(pack_step(*input.buffer, input.rows, rows, std::move(weights), numerics_, inputs));
  append(std::make_unique<LinearStep>(std::move(name), input.rows, rows, std::move(projections), numerics_,
                                      inputs, scale, softcap));
}

PackedRows& Program::packed(std::int64_t columns) {
  for (const auto& rows : packed_) {
    if (rows->columns() == columns) return *rows;
  }
  return *packed_.emplace_back(std::make_unique<PackedRows>(columns));
}

GatedScratch& Program::gated(std::int64_t hidden) {
  for (const auto& scratch : gated_scratch_) {
    if (scratch->hidden == hidden) return *scratch;
  }
  return *gated_scratch_.emplace_back(std::make_unique<GatedScratch>(hidden));
}

AttentionSchedule& Program::schedule(const AttentionShape& shape) {
  for (const auto& schedule : schedules_) {
    if (schedule->shape() == shape) return *schedule;
  }
  return *schedules_.emplace_back(
      std::make_unique<AttentionSchedule>(attention_kernels(cache_.types(), numerics_), shape, threads()));
}

}  // namespace trivet
