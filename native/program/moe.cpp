#include "program/moe.h"

#include <algorithm>

namespace trivet {
namespace {

std::int32_t* ints(const RowMemory& memory, std::int64_t row) {
  return reinterpret_cast<std::int32_t*>(memory.row(row));
}
float* floats(const RowMemory& memory, std::int64_t row) { return reinterpret_cast<float*>(memory.row(row)); }

// The top_k most probable experts, the lower index first among equals, and their shares.
void choose(const MoeShape& shape, float* probabilities, std::int32_t* chosen, float* shares) {
  row_kernels().softmax(probabilities, shape.experts, probabilities);
  float total = 0.0f;
  for (int rank = 0; rank < shape.top_k; ++rank) {
    int best = -1;
    for (int e = 0; e < shape.experts; ++e) {
      if (std::find(chosen, chosen + rank, e) != chosen + rank) continue;
      if (best < 0 || probabilities[e] > probabilities[best]) best = e;
    }
    chosen[rank] = best;
    shares[rank] = probabilities[best];
    total += shares[rank];
  }
  const float factor = shape.normalize ? shape.scale / total : shape.scale;
  for (int rank = 0; rank < shape.top_k; ++rank) shares[rank] *= factor;
}

// Sorts the slots by expert, and within an expert by row: the work of one member, for it is short.
class GroupStep final : public Step {
 public:
  GroupStep(MoeScratch& scratch, Rows rows)
      : Step("moe.group",
             {reads(&scratch.chosen, Division::anywhere), writes(&scratch.slots, Division::anywhere)}),
        scratch_(scratch),
        rows_(rows) {}

  void prepare(const Batch& batch, int) override { scratch_.reserve(batch.rows(rows_)); }

  bool alone(const Batch&) const override { return true; }

  void run(const Batch& batch, Worker worker) override {
    if (worker.member != 0) return;
    MoeScratch& s = scratch_;
    const std::int64_t rows = batch.rows(rows_);
    std::fill(s.ends.begin(), s.ends.end(), 0);
    for (std::int64_t i = 0; i < rows; ++i) {
      for (int rank = 0; rank < s.top_k; ++rank) ++s.ends[ints(s.chosen, i)[rank]];
    }
    s.active.clear();
    std::int64_t begin = 0;
    for (int e = 0; e < s.experts; ++e) {
      if (s.ends[e] > 0) s.active.push_back(e);
      std::swap(begin, s.ends[e]);
      begin += s.ends[e];
    }
    // ends[e] is where expert e begins, until each of its slots has moved it on by one.
    for (std::int64_t i = 0; i < rows; ++i) {
      for (int rank = 0; rank < s.top_k; ++rank) {
        const std::int64_t slot = s.ends[ints(s.chosen, i)[rank]]++;
        ints(s.slots, i)[rank] = static_cast<std::int32_t>(slot);
        s.tokens[slot] = static_cast<std::int32_t>(i);
      }
    }
  }

 private:
  MoeScratch& scratch_;
  Rows rows_;
};

// Each member executes `body` for its part of the slots.
class SlotStep final : public Step {
 public:
  using Body = std::function<void(std::int64_t begin, std::int64_t end)>;

  SlotStep(std::string name, const MoeScratch& scratch, Rows rows, std::vector<Access> accesses, Body body)
      : Step(std::move(name), std::move(accesses)), scratch_(scratch), rows_(rows), body_(std::move(body)) {}

  void run(const Batch& batch, Worker worker) override {
    const Range range = split(batch.rows(rows_) * scratch_.top_k, worker.member, worker.members);
    if (range.begin < range.end) body_(range.begin, range.end);
  }

 private:
  const MoeScratch& scratch_;
  Rows rows_;
  Body body_;
};

// Calls f(slots, rows) for those of the slots [begin, end) that an expert has, who has `rows` in all.
template <class F>
void for_each_expert(const MoeScratch& scratch, std::int64_t begin, std::int64_t end, F f) {
  for (const std::int32_t expert : scratch.active) {
    const Range all = scratch.slots_of(expert);
    const Range part = {std::max(begin, all.begin), std::min(end, all.end)};
    if (part.begin < part.end) f(part, all.end - all.begin);
  }
}

struct ExpertProjection {
  const std::vector<PackedMatrix>* matrices;
  std::int64_t column;  // of the products
};

// Multiplies every active expert's slots with its matrices.
class ExpertStep final : public Step {
 public:
  ExpertStep(std::string name, const MoeScratch& scratch, Rows rows, PackedRows& input,
             std::vector<ExpertProjection> projections, Numerics numerics, Inputs inputs)
      : Step(std::move(name), {reads(&scratch.slots, Division::anywhere), reads(&input, Division::anywhere),
                               writes(&scratch.products, Division::anywhere)}),
        scratch_(scratch),
        rows_(rows),
        input_(input),
        projections_(std::move(projections)),
        numerics_(numerics),
        inputs_(inputs) {}

  void prepare(const Batch& batch, int members) override {
    const std::int64_t slots = batch.rows(rows_) * scratch_.top_k;
    for (const ExpertProjection& p : projections_) {
      for (const std::int64_t rows : {std::int64_t{1}, slots}) input_.reserve(activation(p, rows), slots);
    }
    shares_.reset(members);
  }

  void run(const Batch&, Worker worker) override {
    const PackedMatrix& first = projections_[0].matrices->front();
    const std::int64_t experts = static_cast<std::int64_t>(scratch_.active.size());
    const std::int64_t pairs = experts * static_cast<std::int64_t>(projections_.size());
    if (pairs == 0) return;
    const std::int64_t rows = scratch_.ends.back() / experts;
    const std::int64_t step = panels_per_unit({first.panels() * pairs}, first, rows,
                                              activation(projections_[0], rows), worker.members);
    const std::int64_t per_pair = (first.panels() + step - 1) / step;
    const std::int64_t units = pairs * per_pair;
    for (std::int64_t unit = shares_.next(units, worker.member); unit < units;
         unit = shares_.next(units, worker.member)) {
      const std::int64_t pair = unit / per_pair, panel = unit % per_pair * step;
      const int expert = scratch_.active[pair / projections_.size()];
      const ExpertProjection& p = projections_[pair % projections_.size()];
      const Range slots = scratch_.slots_of(expert);
      const PackedMatrix& matrix = (*p.matrices)[expert];
      const ActivationFormat format = activation(p, slots.end - slots.begin);
      matrix.multiply(format, input_.row(format, slots.begin), slots.end - slots.begin, panel,
                      std::min(panel + step, matrix.panels()), scratch_.products.row(slots.begin) + p.column,
                      scratch_.products.stride());
    }
  }

 private:
  ActivationFormat activation(const ExpertProjection& p, std::int64_t rows) const {
    return activation_format(p.matrices->front().format(), numerics_, rows, inputs_);
  }

  const MoeScratch& scratch_;
  Rows rows_;
  PackedRows& input_;
  std::vector<ExpertProjection> projections_;
  Numerics numerics_;
  Inputs inputs_;
  Shares shares_;
};

}  // namespace

MoeScratch::MoeScratch(const MoeShape& shape)
    : width(shape.width),
      hidden(shape.hidden),
      experts(shape.experts),
      top_k(shape.top_k),
      router_input(shape.width),
      probabilities(shape.experts),
      chosen(shape.top_k * sizeof(std::int32_t)),
      shares(shape.top_k * sizeof(float)),
      slots(shape.top_k * sizeof(std::int32_t)),
      ends(shape.experts),
      expert_input(shape.width),
      down_input(shape.hidden),
      products(std::max(2 * shape.hidden, shape.width)) {
  active.reserve(shape.experts);
}

bool MoeScratch::fits(const MoeShape& shape) const {
  return width == shape.width && hidden == shape.hidden && experts == shape.experts && top_k == shape.top_k;
}

void MoeScratch::reserve(std::int64_t rows) {
  const std::int64_t count = rows * top_k;
  probabilities.reserve(rows);
  for (RowMemory* memory : {&chosen, &shares, &slots}) memory->reserve(rows);
  if (static_cast<std::int64_t>(tokens.size()) < count) tokens.resize(count);
  products.reserve(count);
}

std::vector<std::unique_ptr<Step>> moe_steps(const MoeShape& shape, const MoeWeights& weights, MoeScratch& s,
                                             const Buffer& input, Buffer& output, Rows rows,
                                             Numerics numerics) {
  const Division division = by_row(rows);
  const Format gate = weights.gate->front().format(), up = weights.up->front().format(),
               down = weights.down->front().format();
  const std::vector<Projection> router = {{weights.router, &s.probabilities, {}}};
  const Inputs raised = inputs_of(s.width), lowered = Inputs::wide;

  std::vector<std::unique_ptr<Step>> steps;
  steps.push_back(pack_step(input, rows, s.router_input, {weights.router->format()}, numerics, raised));
  steps.push_back(std::make_unique<LinearStep>("moe.router", rows, s.router_input, router, numerics, raised));
  steps.push_back(std::make_unique<RowStep>(
      "moe.choose", rows,
      std::vector{reads(&s.probabilities, Division::anywhere), writes(&s.chosen, division)},
      [shape, &s](const Batch&, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          choose(shape, s.probabilities.row(i), ints(s.chosen, i), floats(s.shares, i));
        }
      }));
  steps.push_back(std::make_unique<GroupStep>(s, rows));
  steps.push_back(std::make_unique<SlotStep>(
      "moe.pack", s, rows,
      std::vector{reads(&input, Division::anywhere), reads(&s.slots, Division::anywhere),
                  writes(&s.expert_input, Division::anywhere)},
      [weights = std::vector{gate, up}, numerics, raised, &s, &input](std::int64_t begin, std::int64_t end) {
        for_each_expert(s, begin, end, [&](Range slots, std::int64_t count) {
          for (const ActivationFormat format : activation_formats(weights, numerics, count, raised)) {
            for (std::int64_t i = slots.begin; i < slots.end; ++i) {
              pack_activations(format, input.row(s.tokens[i]), 0, 0, 1, s.width,
                               s.expert_input.row(format, i));
            }
          }
        });
      }));
  steps.push_back(std::make_unique<ExpertStep>(
      "moe.gate_up", s, rows, s.expert_input,
      std::vector<ExpertProjection>{{weights.gate, 0}, {weights.up, s.hidden}}, numerics, raised));
  steps.push_back(std::make_unique<SlotStep>(
      "moe.act_mul", s, rows,
      std::vector{writes(&s.products, Division::anywhere), writes(&s.down_input, Division::anywhere)},
      [act = shape.act, down, numerics, lowered, &s](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          float* gate = s.products.row(i);
          row_kernels().act_mul(act, gate, gate + s.hidden, s.hidden, gate);
        }
        for_each_expert(s, begin, end, [&](Range slots, std::int64_t count) {
          const ActivationFormat format = activation_format(down, numerics, count, lowered);
          pack_activations(format, s.products.row(0), s.products.stride(), slots.begin, slots.end, s.hidden,
                           s.down_input.row(format, 0));
        });
      }));
  steps.push_back(std::make_unique<ExpertStep>("moe.down", s, rows, s.down_input,
                                               std::vector<ExpertProjection>{{weights.down, 0}}, numerics,
                                               lowered));
  steps.push_back(std::make_unique<RowStep>(
      "moe.sum", rows,
      std::vector{reads(&s.products, Division::anywhere), reads(&s.slots, Division::anywhere),
                  reads(&s.chosen, division), writes(&output, division)},
      [&s, &output](const Batch&, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          float* y = output.row(i);
          std::fill_n(y, s.width, 0.0f);
          for (int rank = 0; rank < s.top_k; ++rank) {
            row_kernels().add_scaled(s.products.row(ints(s.slots, i)[rank]), floats(s.shares, i)[rank],
                                     s.width, y);
          }
        }
      }));
  return steps;
}

}  // namespace trivet
