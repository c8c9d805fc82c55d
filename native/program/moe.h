// A mixture of experts: a router chooses experts for every row, each expert multiplies its rows together.
#pragma once

#include <memory>
#include <vector>

#include "ops/rows.h"
#include "program/linear.h"
#include "program/step.h"

namespace trivet {

struct MoeShape {
  std::int64_t width, hidden;
  int experts, top_k;
  Activation act;
  bool normalize;  // divide the chosen experts' probabilities by their sum
  float scale;
};

// Packed matrices of the experts, [experts] each.
struct MoeWeights {
  const PackedMatrix* router;  // float32
  const std::vector<PackedMatrix>*gate, *up, *down;
};

// Scratch, shared by the layers of one shape. Rows are tokens while they are routed; then every
// token is there once for each of its experts, sorted by expert ("slots").
struct MoeScratch {
  explicit MoeScratch(const MoeShape& shape);
  bool fits(const MoeShape& shape) const;
  void reserve(std::int64_t rows);

  // The slots of an expert.
  Range slots_of(std::int32_t expert) const { return {expert == 0 ? 0 : ends[expert - 1], ends[expert]}; }

  std::int64_t width, hidden;
  int experts, top_k;
  PackedRows router_input;
  Buffer probabilities;              // [rows][experts]
  RowMemory chosen, shares, slots;   // [rows][top_k] expert, weight, place among the slots
  std::vector<std::int32_t> tokens;  // [slots]
  std::vector<std::int64_t> ends;    // [experts] slots up to and with those of an expert
  std::vector<std::int32_t> active;  // experts that have any
  PackedRows expert_input, down_input;
  Buffer products;  // [slots] of gate and of up, side by side; once these are converted, of down
};

// The steps that compute output = moe(input).
std::vector<std::unique_ptr<Step>> moe_steps(const MoeShape& shape, const MoeWeights& weights,
                                             MoeScratch& scratch, const Buffer& input, Buffer& output,
                                             Rows rows, Numerics numerics);

}  // namespace trivet
