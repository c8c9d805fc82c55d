// Matrix products with packed weights.
#pragma once

#include <vector>

#include "gemm/matrix.h"
#include "program/step.h"

namespace trivet {

// Converted activations of `columns` columns, shared by all the products of a program that can use them.
struct PackedRows {
  PackedRows(ActivationFormat format, std::int64_t columns)
      : format(format), columns(columns), memory(activation_row_bytes(format, columns)) {}

  ActivationFormat format;
  std::int64_t columns;
  RowMemory memory;
};

// Converts the rows of `input`.
std::unique_ptr<Step> pack_step(const Buffer& input, Rows rows, PackedRows& packed);

struct Projection {
  const PackedMatrix* matrix;
  PackedRows* input;
  Buffer* output;
  std::vector<float> bias;  // empty for none
};

// output = input W^T + bias for several matrices; then `scale` and `softcap`, see RowKernels::softcap.
class LinearStep final : public Step {
 public:
  LinearStep(std::string name, Rows rows, std::vector<Projection> projections, float scale = 1.0f,
             float softcap = 0.0f);

  void prepare(const Batch& batch, int members) override;
  void run(const Batch& batch, Worker worker) override;

 private:
  void multiply(const Projection& projection, Range rows, Range panels) const;

  Rows rows_;
  std::vector<Projection> projections_;
  float scale_, softcap_;
  std::int64_t panels_ = 0;
  std::int64_t panel_bytes_ = 0;  // of the widest matrix
  std::int64_t unit_panels_ = 1, unit_rows_ = 1;
  std::vector<std::int64_t> unit_ends_;  // for each projection, of its units within those of a tile of rows
  Claims claims_;
};

// Panels per unit such that `members` are kept busy until about the same time, and no unit is too small to be
// worth claiming.
std::int64_t panels_per_unit(std::int64_t panels, std::int64_t panel_bytes, std::int64_t rows, int members);

}  // namespace trivet
