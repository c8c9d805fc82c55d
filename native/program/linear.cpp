#include "program/linear.h"

#include <algorithm>
#include <numeric>

#include "ops/rows.h"

namespace trivet {
namespace {

// Weight bytes read times rows multiplied, below which a unit is done faster than another member joins.
constexpr std::int64_t kUnitWork = 32 << 10;

// Kernels of floats multiply two panels together.
constexpr std::int64_t kLeastPanels = 4;

// But rows of tiles go over the panels: they are the larger part, and all of them are read for each unit.
constexpr std::int64_t kUnitPanels = 8;

// Rows that fit a cache, and are enough for reading the weights once more for them not to matter.
constexpr std::int64_t kUnitRows = 256;

// The panels of the largest share, where each member has one of the units of all matrices.
std::int64_t largest_share(const std::vector<std::int64_t>& panels, std::int64_t of_unit, int members) {
  std::int64_t units = 0;
  for (const std::int64_t count : panels) units += (count + of_unit - 1) / of_unit;
  std::int64_t unit = 0, share = 0, largest = 0;
  int member = 0;
  for (const std::int64_t count : panels) {
    for (std::int64_t begin = 0; begin < count; begin += of_unit, ++unit) {
      for (; unit == split(units, member, members).end; ++member) share = 0;
      share += std::min(of_unit, count - begin);
      largest = std::max(largest, share);
    }
  }
  return largest;
}

// Panels of a unit, `most` or not much fewer and a multiple of `multiple`, with which members are done
// soonest.
std::int64_t even(const std::vector<std::int64_t>& panels, std::int64_t most, std::int64_t multiple,
                  int members) {
  const std::int64_t all = std::accumulate(panels.begin(), panels.end(), std::int64_t{0});
  std::int64_t best = most, least = largest_share(panels, most, members);
  for (std::int64_t fewer = most - multiple; fewer > most / 2 && least * members > all; fewer -= multiple) {
    const std::int64_t share = largest_share(panels, fewer, members);
    if (share < least) best = fewer, least = share;
  }
  return best;
}

bool is_rounded(ActivationFormat activation) {
  return activation == ActivationFormat::bf16 || activation == ActivationFormat::q8_256_fast;
}

std::vector<Access> linear_accesses(const PackedRows& input, const std::vector<Projection>& projections) {
  std::vector<Access> accesses = {reads(&input, Division::anywhere)};
  for (const Projection& p : projections) accesses.push_back(writes(p.output, Division::anywhere));
  return accesses;
}

}  // namespace

PackedRows::PackedRows(std::int64_t columns) : columns_(columns) {
  for (int i = 0; i < kActivationFormats; ++i) {
    memory_.emplace_back(activation_row_bytes(static_cast<ActivationFormat>(i), columns));
  }
}

std::vector<ActivationFormat> activation_formats(const std::vector<Format>& weights, Numerics numerics,
                                                 std::int64_t rows, Inputs inputs) {
  std::vector<ActivationFormat> formats;
  for (const Format w : weights) {
    const ActivationFormat format = activation_format(w, numerics, rows, inputs);
    if (std::find(formats.begin(), formats.end(), format) == formats.end()) formats.push_back(format);
  }
  return formats;
}

std::int64_t panels_at_a_time(std::int64_t panels, const PackedMatrix& widest, std::int64_t rows,
                              ActivationFormat activation) {
  const std::int64_t pass = product_pass_rows();
  if (rows <= pass || is_rounded(activation)) return panels;
  const std::size_t pass_bytes = pass * activation_row_bytes(activation, widest.columns());
  return std::clamp<std::int64_t>(pass_bytes / widest.panel_bytes(), 1, panels);
}

std::int64_t panels_per_unit(const std::vector<std::int64_t>& panels, const PackedMatrix& widest,
                             std::int64_t rows, ActivationFormat activation, int members) {
  const bool again = rows > product_pass_rows();
  const std::int64_t all = std::accumulate(panels.begin(), panels.end(), std::int64_t{0});
  if (again && !is_rounded(activation)) {
    const std::int64_t tiles = (rows + product_pass_rows() - 1) / product_pass_rows();
    const std::int64_t balanced = std::max(all * tiles / (members * kUnits), kLeastPanels);
    return even(panels, std::min(panels_at_a_time(all, widest, rows, activation), balanced), 1, members);
  }
  if (members == 1) return all;
  const std::int64_t tiles = (rows + kUnitRows - 1) / kUnitRows, units = members * kUnits;
  const std::int64_t balanced = std::min((all * tiles + units - 1) / units, (all + kUnits - 1) / kUnits);
  if (again) return std::max((balanced + 1) / 2 * 2, kUnitPanels);
  const std::int64_t worthwhile = kUnitWork / (static_cast<std::int64_t>(widest.panel_bytes()) * rows) + 1;
  const std::int64_t most = std::max(balanced, worthwhile);
  if (most == 1 && !is_rounded(activation)) return most;
  return even(panels, (most + 1) / 2 * 2, 2, members);  // panels are multiplied in pairs
}

std::int64_t rows_per_unit(std::int64_t rows) {
  const std::int64_t units = (rows + kUnitRows - 1) / kUnitRows, even = (rows + units - 1) / units;
  return (even + PackedMatrix::kPanel - 1) / PackedMatrix::kPanel * PackedMatrix::kPanel;
}

std::unique_ptr<Step> pack_step(const Buffer& input, Rows rows, PackedRows& packed,
                                std::vector<Format> weights, Numerics numerics, Inputs inputs) {
  const Division division = by_row(rows);
  return std::make_unique<RowStep>("pack", rows,
                                   std::vector{reads(&input, division), writes(&packed, division)},
                                   [&input, &packed, weights = std::move(weights), numerics, inputs, rows](
                                       const Batch& batch, std::int64_t begin, std::int64_t end) {
                                     for (const ActivationFormat format :
                                          activation_formats(weights, numerics, batch.rows(rows), inputs)) {
                                       pack_activations(format, input.row(0), input.stride(), begin, end,
                                                        packed.columns(), packed.row(format, 0));
                                     }
                                   });
}

LinearStep::LinearStep(std::string name, Rows rows, PackedRows& input, std::vector<Projection> projections,
                       Numerics numerics, Inputs inputs, float scale, float softcap)
    : Step(std::move(name), linear_accesses(input, projections)),
      rows_(rows),
      input_(input),
      projections_(std::move(projections)),
      numerics_(numerics),
      inputs_(inputs),
      scale_(scale),
      softcap_(softcap),
      widest_(projections_.front().matrix) {
  for (const Projection& p : projections_) {
    panels_.push_back(p.matrix->panels());
    if (p.matrix->panel_bytes() > widest_->panel_bytes()) widest_ = p.matrix;
  }
  unit_ends_.resize(projections_.size());
}

void LinearStep::prepare(const Batch& batch, int members) {
  const std::int64_t rows = std::max<std::int64_t>(1, batch.rows(rows_));
  for (const Projection& p : projections_) input_.reserve(activation(p, rows), rows);
  unit_panels_ = panels_per_unit(panels_, *widest_, rows, activation(projections_.front(), rows), members);
  std::int64_t units = 0;
  for (std::size_t i = 0; i < projections_.size(); ++i) {
    units += (projections_[i].matrix->panels() + unit_panels_ - 1) / unit_panels_;
    unit_ends_[i] = units;
  }
  unit_rows_ = rows_per_unit(rows);
  shares_.reset(members);
}

void LinearStep::run(const Batch& batch, Worker worker) {
  const std::int64_t rows = batch.rows(rows_), per_tile = unit_ends_.back();
  const std::int64_t units = (rows + unit_rows_ - 1) / unit_rows_ * per_tile;
  for (std::int64_t unit = shares_.next(units, worker.member); unit < units;
       unit = shares_.next(units, worker.member)) {
    const std::int64_t row = unit / per_tile * unit_rows_, within = unit % per_tile;
    const std::size_t i = std::upper_bound(unit_ends_.begin(), unit_ends_.end(), within) - unit_ends_.begin();
    const std::int64_t panel = (within - (i == 0 ? 0 : unit_ends_[i - 1])) * unit_panels_;
    const Projection& p = projections_[i];
    const ActivationFormat format = activation(p, rows);
    multiply(p, format, {row, std::min(row + unit_rows_, rows)},
             {panel, std::min(panel + unit_panels_, p.matrix->panels())});
  }
}

void LinearStep::multiply(const Projection& p, ActivationFormat format, Range rows, Range panels) const {
  p.matrix->multiply(format, input_.row(format, rows.begin), rows.end - rows.begin, panels.begin, panels.end,
                     p.output->row(rows.begin), p.output->stride());
  const std::int64_t begin = panels.begin * PackedMatrix::kPanel;
  const std::int64_t width = std::min(panels.end * PackedMatrix::kPanel, p.matrix->rows()) - begin;
  for (std::int64_t i = rows.begin; i < rows.end; ++i) {
    float* y = p.output->row(i) + begin;
    if (!p.bias.empty()) row_kernels().add(y, p.bias.data() + begin, width, y);
    if (scale_ != 1.0f || softcap_ != 0.0f) row_kernels().softcap(y, scale_, softcap_, width, y);
  }
}

}  // namespace trivet
