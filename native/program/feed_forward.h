// The gated part of a feed-forward network.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "ops/rows.h"
#include "program/linear.h"

namespace trivet {

struct GatedWeights {
  struct Part {
    const PackedMatrix* matrix;
    std::vector<float> bias;  // empty for none
  };

  Part gate, up;
  Activation act;
  Format down;  // of the matrix that the result is multiplied with
};

// What networks of one width share: they are executed one after another.
struct GatedScratch {
  explicit GatedScratch(std::int64_t hidden);

  const std::int64_t hidden;
  PackedRows output;
  Buffer gate, up;  // all columns of all rows
  Buffer blocks;    // of each member
};

// scratch.output = act(x G^T + b) * (x U^T + c), converted to what the product with `down` takes.
//
// A member multiplies a step of columns for some rows by both matrices, and converts these while they are in
// its cache. Of very few rows, or where members would not get as many steps, each unit is a run of panels of
// one matrix, as in a LinearStep, so that weights are read in long runs; whoever adds the last panel of a
// step of columns converts it.
class GatedStep final : public Step {
 public:
  GatedStep(Rows rows, PackedRows& input, GatedWeights weights, GatedScratch& scratch, Numerics numerics,
            Inputs inputs);

  void prepare(const Batch& batch, int members) override;
  void run(const Batch& batch, Worker worker) override;

 private:
  ActivationFormat activation(const GatedWeights::Part& part, std::int64_t rows) const {
    return activation_format(part.matrix->format(), numerics_, rows, inputs_);
  }
  void run_blocks(std::int64_t rows, Worker worker);
  void run_panels(std::int64_t rows, Worker worker);
  void multiply(const GatedWeights::Part& part, ActivationFormat format, Range rows, Range panels, float* y,
                std::int64_t ldy) const;
  void convert(std::int64_t group, Range rows, float* gate, float* up, std::int64_t stride) const;

  Rows rows_;
  PackedRows& input_;
  GatedWeights weights_;
  GatedScratch& s_;
  Numerics numerics_;
  Inputs inputs_;
  const PackedMatrix& widest_;  // has the larger panels
  std::int64_t groups_;         // a group is a step of columns
  bool blocks_ = false;         // or units of panels
  std::int64_t unit_rows_ = 1, unit_panels_ = 1;
  ActivationFormat output_format_ = ActivationFormat::f32;
  std::vector<std::atomic<std::int64_t>> missing_;  // panels, of each group of each unit's rows
  Shares shares_;
};

}  // namespace trivet
