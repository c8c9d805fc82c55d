#include "program/feed_forward.h"

#include <algorithm>

#include "gemm/activations.h"

namespace trivet {
namespace {

constexpr std::int64_t kPanel = PackedMatrix::kPanel;
constexpr std::int64_t kGroupPanels = kStep / kPanel;

// Rows of a unit: the most of these of which the rows fill more than half of one, or the least of these, with
// which members get about as many units. Results of fewer than kLeastBlockRows stay in the cache anyhow.
constexpr std::int64_t kBlockRows[] = {256, 128, 64};
constexpr std::int64_t kLeastBlockRows = 9;

// Of a member's block: gate and up of a step, and a line more, so that rows do not compete for a cache's
// sets.
constexpr std::int64_t kBlockStride = 2 * kStep + 16;

// The products of a step go to where its columns would be in whole rows: before a block there is as much
// room.
std::int64_t rows_before(std::int64_t hidden) { return (hidden + kBlockStride - 1) / kBlockStride; }

// Of few rows, a unit is a run of panels of one matrix. A member's share of all is about its share of the
// runs of gate, and then of up: so everyone converts as much as the others.
struct Run {
  bool of_gate;
  std::int64_t index;
};

Run run_of(std::int64_t unit, std::int64_t runs, int members) {
  const int member = static_cast<int>(((unit / 2 + 1) * members + runs - 1) / runs) - 1;
  const Range share = split(runs, member, members);
  const std::int64_t at = unit - 2 * share.begin, size = share.end - share.begin;
  return {at < size, share.begin + at % size};
}

}  // namespace

GatedScratch::GatedScratch(std::int64_t hidden)
    : hidden(hidden), output(hidden), gate(row_stride(hidden)), up(gate.stride()), blocks(kBlockStride) {}

GatedStep::GatedStep(Rows rows, PackedRows& input, GatedWeights weights, GatedScratch& scratch,
                     Numerics numerics, Inputs inputs)
    : Step("feed_forward.gate_up",
           {reads(&input, Division::anywhere), writes(&scratch.output, Division::anywhere)}),
      rows_(rows),
      input_(input),
      weights_(std::move(weights)),
      s_(scratch),
      numerics_(numerics),
      inputs_(inputs),
      widest_(weights_.gate.matrix->panel_bytes() > weights_.up.matrix->panel_bytes() ? *weights_.gate.matrix
                                                                                      : *weights_.up.matrix),
      groups_((scratch.hidden + kStep - 1) / kStep) {}

void GatedStep::prepare(const Batch& batch, int members) {
  const std::int64_t rows = std::max<std::int64_t>(1, batch.rows(rows_));
  for (const auto* part : {&weights_.gate, &weights_.up}) input_.reserve(activation(*part, rows), rows);
  output_format_ = activation_format(weights_.down, numerics_, rows, Inputs::wide);
  s_.output.reserve(output_format_, rows);
  const auto* block = std::find_if(std::begin(kBlockRows), std::end(kBlockRows), [&](std::int64_t height) {
    const std::int64_t units = groups_ * ((rows + height - 1) / height);
    const std::int64_t idle = (units + members - 1) / members * members - units;
    const bool filled = 2 * rows > height || height == *std::rbegin(kBlockRows);
    return filled && units >= members * kUnits && 16 * idle <= units;
  });
  blocks_ = rows >= kLeastBlockRows && block != std::end(kBlockRows);
  shares_.reset(members);
  if (blocks_) {
    const std::int64_t blocks = (rows + *block - 1) / *block, even = (rows + blocks - 1) / blocks;
    unit_rows_ = (even + kPanel - 1) / kPanel * kPanel;
    s_.blocks.reserve(rows_before(s_.hidden) + members * unit_rows_);
    return;
  }
  s_.gate.reserve(rows);
  s_.up.reserve(rows);
  const std::int64_t panels = weights_.gate.matrix->panels();
  unit_panels_ = panels_per_unit({2 * panels}, widest_, rows, activation(weights_.gate, rows), members);
  unit_rows_ = rows_per_unit(rows);
  const std::int64_t count = (rows + unit_rows_ - 1) / unit_rows_ * groups_;
  if (std::ssize(missing_) < count) missing_ = std::vector<std::atomic<std::int64_t>>(count);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t of_group = std::min(kGroupPanels, panels - i % groups_ * kGroupPanels);
    missing_[i].store(2 * of_group, std::memory_order_relaxed);
  }
}

void GatedStep::run(const Batch& batch, Worker worker) {
  if (blocks_) return run_blocks(batch.rows(rows_), worker);
  run_panels(batch.rows(rows_), worker);
}

void GatedStep::run_blocks(std::int64_t rows, Worker worker) {
  float* block = s_.blocks.row(rows_before(s_.hidden) + worker.member * unit_rows_);
  const std::int64_t blocks = (rows + unit_rows_ - 1) / unit_rows_, panels = weights_.gate.matrix->panels();
  const std::int64_t units = groups_ * blocks;
  for (std::int64_t unit = shares_.next(units, worker.member); unit < units;
       unit = shares_.next(units, worker.member)) {
    const std::int64_t group = unit % groups_, first = group * kGroupPanels,
                       row = unit / groups_ * unit_rows_;
    const Range of_unit = {row, std::min(rows, row + unit_rows_)};
    const Range of_group = {first, std::min(panels, first + kGroupPanels)};
    float* y = block;
    for (const auto* part : {&weights_.gate, &weights_.up}) {
      multiply(*part, activation(*part, rows), of_unit, of_group, y - first * kPanel, kBlockStride);
      y += kStep;
    }
    convert(group, of_unit, block, block + kStep, kBlockStride);
  }
}

void GatedStep::run_panels(std::int64_t rows, Worker worker) {
  const std::int64_t panels = weights_.gate.matrix->panels();
  const std::int64_t runs = (panels + unit_panels_ - 1) / unit_panels_;
  const std::int64_t units = (rows + unit_rows_ - 1) / unit_rows_ * 2 * runs;
  for (std::int64_t unit = shares_.next(units, worker.member); unit < units;
       unit = shares_.next(units, worker.member)) {
    const std::int64_t tile = unit / (2 * runs);
    const auto [of_gate, run] = run_of(unit % (2 * runs), runs, worker.members);
    const GatedWeights::Part& part = of_gate ? weights_.gate : weights_.up;
    const Range of_unit = {tile * unit_rows_, std::min(rows, (tile + 1) * unit_rows_)};
    const Range of_run = {run * unit_panels_, std::min(panels, (run + 1) * unit_panels_)};
    float *gate = s_.gate.row(of_unit.begin), *up = s_.up.row(of_unit.begin);
    const std::int64_t stride = s_.gate.stride();
    multiply(part, activation(part, rows), of_unit, of_run, of_gate ? gate : up, stride);
    for (std::int64_t group = of_run.begin / kGroupPanels; group * kGroupPanels < of_run.end; ++group) {
      const std::int64_t first = group * kGroupPanels;
      const std::int64_t added = std::min(of_run.end, first + kGroupPanels) - std::max(of_run.begin, first);
      std::atomic<std::int64_t>& missing = missing_[tile * groups_ + group];
      if (missing.fetch_sub(added, std::memory_order_acq_rel) > added) continue;
      convert(group, of_unit, gate + first * kPanel, up + first * kPanel, stride);
    }
  }
}

void GatedStep::multiply(const GatedWeights::Part& part, ActivationFormat format, Range rows, Range panels,
                         float* y, std::int64_t ldy) const {
  const std::int64_t count = rows.end - rows.begin;
  const std::int64_t step = panels_at_a_time(panels.end - panels.begin, widest_, count, format);
  for (std::int64_t panel = panels.begin; panel < panels.end; panel += step) {
    part.matrix->multiply(format, input_.row(format, rows.begin), count, panel,
                          std::min(panel + step, panels.end), y, ldy);
  }
}

void GatedStep::convert(std::int64_t group, Range rows, float* gate, float* up, std::int64_t stride) const {
  const std::int64_t begin = group * kStep, end = std::min(begin + kStep, s_.hidden), width = end - begin;
  for (std::int64_t i = rows.begin; i < rows.end; ++i, gate += stride, up += stride) {
    const auto& kernels = row_kernels();
    if (const auto& bias = weights_.gate.bias; !bias.empty()) kernels.add(gate, &bias[begin], width, gate);
    if (const auto& bias = weights_.up.bias; !bias.empty()) kernels.add(up, &bias[begin], width, up);
    kernels.act_mul(weights_.act, gate, up, width, gate);
    pack_columns(output_format_, gate, begin, end, s_.hidden, s_.output.row(output_format_, i));
  }
}

}  // namespace trivet
