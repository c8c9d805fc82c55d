#include "program/feed_forward.h"

#include <algorithm>

#include "gemm/activations.h"

namespace trivet {
namespace {

constexpr std::int64_t kPanel = PackedMatrix::kPanel;
constexpr std::int64_t kGroupPanels = kStep / kPanel;

// Rows of a unit: the most of these that there are enough units of, but most of all only if the weights are
// rounded anew for each. For fewer rows, what takes time is to read the weights.
constexpr std::int64_t kBlockRows[] = {512, 256, 128, 64};

// Of a member's block: gate and up of a step, and a line more, so that rows do not compete for a cache's
// sets.
constexpr std::int64_t kBlockStride = 2 * kStep + 16;

// The products of a step go to where its columns would be in whole rows: before a block there is as much
// room.
std::int64_t rows_before(std::int64_t hidden) { return (hidden + kBlockStride - 1) / kBlockStride; }

}  // namespace

GatedScratch::GatedScratch(std::int64_t hidden)
    : hidden(hidden),
      output(hidden),
      gate((hidden + 15) / 16 * 16),
      up(gate.stride()),
      blocks(kBlockStride) {}

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
      panel_bytes_(0),
      groups_((scratch.hidden + kStep - 1) / kStep),
      missing_(groups_) {
  for (const auto* part : {&weights_.gate, &weights_.up}) {
    panel_bytes_ =
        std::max(panel_bytes_, static_cast<std::int64_t>(part->matrix->bytes()) / part->matrix->panels());
  }
}

void GatedStep::prepare(const Batch& batch, int members) {
  const std::int64_t rows = std::max<std::int64_t>(1, batch.rows(rows_));
  for (const auto* part : {&weights_.gate, &weights_.up}) input_.reserve(activation(*part, rows), rows);
  output_format_ = activation_format(weights_.down, numerics_, rows, Inputs::wide);
  s_.output.reserve(output_format_, rows);
  claims_.reset();
  const bool rounded = activation(weights_.gate, rows) == ActivationFormat::q8_256_fast;
  const auto* most = std::begin(kBlockRows) + (rounded ? 0 : 1);
  const auto* block = std::find_if(most, std::end(kBlockRows), [&](std::int64_t height) {
    return rows >= height && groups_ * ((rows + height - 1) / height) >= members * kUnits;
  });
  block_rows_ = 0;
  if (block != std::end(kBlockRows)) {
    const std::int64_t blocks = (rows + *block - 1) / *block, even = (rows + blocks - 1) / blocks;
    block_rows_ = (even + kPanel - 1) / kPanel * kPanel;
    s_.blocks.reserve(rows_before(s_.hidden) + members * block_rows_);
    return;
  }
  s_.gate.reserve(rows);
  s_.up.reserve(rows);
  const std::int64_t panels = weights_.gate.matrix->panels();
  unit_panels_ = panels_per_unit(2 * panels, panel_bytes_, rows, activation(weights_.gate, rows), members);
  for (std::int64_t group = 0; group < groups_; ++group) {
    const std::int64_t of_group = std::min(kGroupPanels, panels - group * kGroupPanels);
    missing_[group].store(2 * of_group, std::memory_order_relaxed);
  }
}

void GatedStep::run(const Batch& batch, Worker worker) {
  if (block_rows_ > 0) return run_blocks(batch.rows(rows_), worker.member);
  run_panels(batch.rows(rows_));
}

void GatedStep::run_blocks(std::int64_t rows, int member) {
  float* block = s_.blocks.row(rows_before(s_.hidden) + member * block_rows_);
  const std::int64_t blocks = (rows + block_rows_ - 1) / block_rows_, panels = weights_.gate.matrix->panels();
  for (std::int64_t unit = claims_.next(); unit < groups_ * blocks; unit = claims_.next()) {
    const std::int64_t group = unit / blocks, first = group * kGroupPanels;
    const Range of_unit = {unit % blocks * block_rows_, std::min(rows, (unit % blocks + 1) * block_rows_)};
    const Range of_group = {first, std::min(panels, first + kGroupPanels)};
    float* y = block;
    for (const auto* part : {&weights_.gate, &weights_.up}) {
      multiply(*part, activation(*part, rows), of_unit, of_group, y - first * kPanel, kBlockStride);
      y += kStep;
    }
    convert(group, of_unit, block, block + kStep, kBlockStride);
  }
}

void GatedStep::run_panels(std::int64_t rows) {
  const std::int64_t panels = weights_.gate.matrix->panels();
  const std::int64_t units = (panels + unit_panels_ - 1) / unit_panels_;
  for (std::int64_t unit = claims_.next(); unit < 2 * units; unit = claims_.next()) {
    const bool of_gate = unit < units;
    const GatedWeights::Part& part = of_gate ? weights_.gate : weights_.up;
    const std::int64_t begin = unit % units * unit_panels_, end = std::min(panels, begin + unit_panels_);
    const Buffer& y = of_gate ? s_.gate : s_.up;
    multiply(part, activation(part, rows), {0, rows}, {begin, end}, y.row(0), y.stride());
    for (std::int64_t group = begin / kGroupPanels; group * kGroupPanels < end; ++group) {
      const std::int64_t first = group * kGroupPanels;
      const std::int64_t added = std::min(end, first + kGroupPanels) - std::max(begin, first);
      if (missing_[group].fetch_sub(added, std::memory_order_acq_rel) > added) continue;
      convert(group, {0, rows}, s_.gate.row(0) + first * kPanel, s_.up.row(0) + first * kPanel, y.stride());
    }
  }
}

void GatedStep::multiply(const GatedWeights::Part& part, ActivationFormat format, Range rows, Range panels,
                         float* y, std::int64_t ldy) const {
  const std::int64_t count = rows.end - rows.begin;
  const std::int64_t step = panels_at_a_time(panels.end - panels.begin, panel_bytes_, count, format);
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
