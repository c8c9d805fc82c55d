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

struct ExpertProjection {
  const std::vector<PackedMatrix>* matrices;
  PackedRows* input;
  Buffer* output;
};

std::vector<Access> expert_accesses(const MoeScratch& scratch,
                                    const std::vector<ExpertProjection>& projections) {
  std::vector<Access> accesses = {reads(&scratch.slots, Division::anywhere)};
  for (const ExpertProjection& p : projections) {
    accesses.push_back(reads(p.input, Division::anywhere));
    accesses.push_back(writes(p.output, Division::anywhere));
  }
  return accesses;
}

// Multiplies every active expert's slots with its matrices.
class ExpertStep final : public Step {
 public:
  ExpertStep(std::string name, const MoeScratch& scratch, std::vector<ExpertProjection> projections)
      : Step(std::move(name), expert_accesses(scratch, projections)),
        scratch_(scratch),
        projections_(std::move(projections)) {}

  void prepare(const Batch&, int) override { claims_.reset(); }

  void run(const Batch&, Worker worker) override {
    const PackedMatrix& first = projections_[0].matrices->front();
    const std::int64_t experts = static_cast<std::int64_t>(scratch_.active.size());
    const std::int64_t pairs = experts * static_cast<std::int64_t>(projections_.size());
    if (pairs == 0) return;
    const std::int64_t step = panels_per_unit(first.panels() * pairs, first.bytes() / first.panels(),
                                              scratch_.ends.back() / experts, worker.members);
    const std::int64_t per_pair = (first.panels() + step - 1) / step;
    for (std::int64_t unit = claims_.next(); unit < pairs * per_pair; unit = claims_.next()) {
      const std::int64_t pair = unit / per_pair, panel = unit % per_pair * step;
      const int expert = scratch_.active[pair / projections_.size()];
      const ExpertProjection& p = projections_[pair % projections_.size()];
      const std::int64_t begin = expert == 0 ? 0 : scratch_.ends[expert - 1], end = scratch_.ends[expert];
      const PackedMatrix& matrix = (*p.matrices)[expert];
      matrix.multiply(p.input->memory.row(begin), end - begin, panel, std::min(panel + step, matrix.panels()),
                      p.output->row(begin), p.output->stride());
    }
  }

 private:
  const MoeScratch& scratch_;
  std::vector<ExpertProjection> projections_;
  Claims claims_;
};

ActivationFormat format_of(const std::vector<PackedMatrix>& matrices) {
  return activation_format(matrices.front().format());
}

}  // namespace

MoeScratch::MoeScratch(const MoeShape& shape, const MoeWeights& weights)
    : width(shape.width),
      hidden(shape.hidden),
      experts(shape.experts),
      top_k(shape.top_k),
      router_input(activation_format(weights.router->format()), shape.width),
      probabilities(shape.experts),
      chosen(shape.top_k * sizeof(std::int32_t)),
      shares(shape.top_k * sizeof(float)),
      slots(shape.top_k * sizeof(std::int32_t)),
      ends(shape.experts),
      gate_input(format_of(*weights.gate), shape.width),
      up_input(format_of(*weights.up), shape.width),
      down_input(format_of(*weights.down), shape.hidden),
      gated(shape.hidden),
      raised(shape.hidden),
      lowered(shape.width) {
  active.reserve(shape.experts);
}

bool MoeScratch::fits(const MoeShape& shape, const MoeWeights& weights) const {
  return width == shape.width && hidden == shape.hidden && experts == shape.experts && top_k == shape.top_k &&
         gate_input.format == format_of(*weights.gate) && up_input.format == format_of(*weights.up) &&
         down_input.format == format_of(*weights.down);
}

void MoeScratch::reserve(std::int64_t rows) {
  const std::int64_t count = rows * top_k;
  router_input.memory.reserve(rows);
  probabilities.reserve(rows);
  for (RowMemory* memory : {&chosen, &shares, &slots}) memory->reserve(rows);
  if (static_cast<std::int64_t>(tokens.size()) < count) tokens.resize(count);
  for (PackedRows* packed : {&gate_input, &up_input, &down_input}) packed->memory.reserve(count);
  for (Buffer* buffer : {&gated, &raised, &lowered}) buffer->reserve(count);
}

std::vector<std::unique_ptr<Step>> moe_steps(const MoeShape& shape, const MoeWeights& weights, MoeScratch& s,
                                             const Buffer& input, Buffer& output, Rows rows) {
  const Division division = by_row(rows);
  std::vector<PackedRows*> inputs = {&s.gate_input};
  if (s.up_input.format != s.gate_input.format) inputs.push_back(&s.up_input);
  std::vector<Access> gather = {reads(&input, Division::anywhere), reads(&s.slots, Division::anywhere)};
  for (const PackedRows* packed : inputs) gather.push_back(writes(packed, Division::anywhere));

  std::vector<std::unique_ptr<Step>> steps;
  steps.push_back(pack_step(input, rows, s.router_input));
  steps.push_back(std::make_unique<LinearStep>(
      "moe.router", rows, std::vector<Projection>{{weights.router, &s.router_input, &s.probabilities, {}}}));
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
      "moe.pack", s, rows, gather, [&s, &input, inputs](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const float* x = input.row(s.tokens[i]);
          for (PackedRows* packed : inputs) {
            pack_activations(packed->format, x, 0, 0, 1, packed->columns, packed->memory.row(i));
          }
        }
      }));
  steps.push_back(
      std::make_unique<ExpertStep>("moe.gate_up", s,
                                   std::vector<ExpertProjection>{{weights.gate, inputs.front(), &s.gated},
                                                                 {weights.up, inputs.back(), &s.raised}}));
  steps.push_back(std::make_unique<SlotStep>(
      "moe.act_mul", s, rows,
      std::vector{writes(&s.gated, Division::anywhere), reads(&s.raised, Division::anywhere),
                  writes(&s.down_input, Division::anywhere)},
      [act = shape.act, &s](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          row_kernels().act_mul(act, s.gated.row(i), s.raised.row(i), s.hidden, s.gated.row(i));
        }
        pack_activations(s.down_input.format, s.gated.row(0), s.gated.stride(), begin, end, s.hidden,
                         s.down_input.memory.row(0));
      }));
  steps.push_back(std::make_unique<ExpertStep>(
      "moe.down", s, std::vector<ExpertProjection>{{weights.down, &s.down_input, &s.lowered}}));
  steps.push_back(std::make_unique<RowStep>(
      "moe.sum", rows,
      std::vector{reads(&s.lowered, Division::anywhere), reads(&s.slots, Division::anywhere),
                  reads(&s.chosen, division), writes(&output, division)},
      [&s, &output](const Batch&, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          float* y = output.row(i);
          std::fill_n(y, s.width, 0.0f);
          for (int rank = 0; rank < s.top_k; ++rank) {
            row_kernels().add_scaled(s.lowered.row(ints(s.slots, i)[rank]), floats(s.shares, i)[rank],
                                     s.width, y);
          }
        }
      }));
  return steps;
}

}  // namespace trivet
