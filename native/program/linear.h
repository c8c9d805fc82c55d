// Matrix products with packed weights.
#pragma once

#include <vector>

#include "gemm/matrix.h"
#include "program/step.h"

namespace trivet {

// Units per member: enough that one slowed by something else on the machine does not hold up the others.
inline constexpr std::int64_t kUnits = 4;

// Activations of `columns` columns, converted to any of the formats, which all products of a program share.
class PackedRows {
 public:
  explicit PackedRows(std::int64_t columns);

  std::int64_t columns() const { return columns_; }
  void reserve(ActivationFormat format, std::int64_t rows) {
    memory_[static_cast<std::size_t>(format)].reserve(rows);
  }
  std::byte* row(ActivationFormat format, std::int64_t i) const {
    return memory_[static_cast<std::size_t>(format)].row(i);
  }

 private:
  std::int64_t columns_;
  std::vector<RowMemory> memory_;  // by format; takes none until it is needed
};

// In which `rows` rows are multiplied by weights of several formats, each once.
std::vector<ActivationFormat> activation_formats(const std::vector<Format>& weights, Numerics numerics,
                                                 std::int64_t rows, Inputs inputs);

struct Projection {
  const PackedMatrix* matrix;
  Buffer* output;
  std::vector<float> bias;  // empty for none
};

// Converts the rows of `input` to what products with these weights take.
std::unique_ptr<Step> pack_step(const Buffer& input, Rows rows, PackedRows& packed,
                                std::vector<Format> weights, Numerics numerics, Inputs inputs);

// output = input W^T + bias for several matrices; then `scale` and `softcap`, see RowKernels::softcap.
class LinearStep final : public Step {
 public:
  LinearStep(std::string name, Rows rows, PackedRows& input, std::vector<Projection> projections,
             Numerics numerics, Inputs inputs, float scale = 1.0f, float softcap = 0.0f);

  void prepare(const Batch& batch, int members) override;
  void run(const Batch& batch, Worker worker) override;

 private:
  ActivationFormat activation(const Projection& projection, std::int64_t rows) const {
    return activation_format(projection.matrix->format(), numerics_, rows, inputs_);
  }
  void multiply(const Projection& projection, ActivationFormat format, Range rows, Range panels) const;

  Rows rows_;
  PackedRows& input_;
  std::vector<Projection> projections_;
  Numerics numerics_;
  Inputs inputs_;
  float scale_, softcap_;
  std::vector<std::int64_t> panels_;  // of each projection
  const PackedMatrix* widest_;        // has the largest panels
  std::int64_t unit_panels_ = 1, unit_rows_ = 1;
  std::vector<std::int64_t> unit_ends_;  // for each projection, of its units within those of a tile of rows
  Shares shares_;
};

// Panels whose weights stay in the L2 cache while the rows go over them, in several passes if there are many:
// they take as much of it as the rows of a pass, all of which are read again for each unit.
std::int64_t panels_at_a_time(std::int64_t panels, const PackedMatrix& widest, std::int64_t rows,
                              ActivationFormat activation);

// Panels per unit, of matrices of so many, such that `members` are kept busy until about the same time, and
// no unit is too small to be worth claiming. `activation` is the format in which most of the products take
// their rows.
std::int64_t panels_per_unit(const std::vector<std::int64_t>& panels, const PackedMatrix& widest,
                             std::int64_t rows, ActivationFormat activation, int members);

// Rows per unit. Units of the same rows are one share after another, as are the rows that a member makes: so
// it finds them in its cache.
std::int64_t rows_per_unit(std::int64_t rows);

}  // namespace trivet
