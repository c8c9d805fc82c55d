// Weight matrices repacked for multiplication, and the activations they multiply with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "formats/format.h"
#include "isa.h"
#include "numerics.h"

namespace trivet {

// How activations are converted before they meet weights: kept as float32, rounded to bfloat16, or int8 with
// one float32 scale per 32 or per 256 columns (see TRIVET_BLOCK_FORMATS); q8_256_by16 and by32 have another
// order of columns; q8_256_fast is q8_256 for weights that are rounded to int8, too. The conversion of a row
// looks at nothing but that row.
enum class ActivationFormat { f32, bf16, q8_32, q8_256, q8_256_by16, q8_256_by32, q8_256_fast };
inline constexpr int kActivationFormats = 7;

// What the rows of a product are. `wide` ones have values far larger than most beside them: products of two
// values are such, and so is what has fewer columns than share a scale. Those of `last` ones make logits,
// which no later layer evens out.
enum class Inputs { usual, wide, last };

// Of rows that are neither products nor the last.
Inputs inputs_of(std::int64_t columns);
// Throws std::invalid_argument for a name that is none.
Inputs inputs_named(const std::string& name);

// In which `rows` rows are multiplied.
ActivationFormat activation_format(Format weights, Numerics numerics, std::int64_t rows, Inputs inputs,
                                   Isa isa = active_isa());

// Bytes of one converted row, a multiple of 64.
std::size_t activation_row_bytes(ActivationFormat format, std::int64_t columns);

// Converts rows [begin, end) of x (row stride ldx floats) to rows [begin, end) of out, which is 64-byte
// aligned.
void pack_activations(ActivationFormat format, const float* x, std::int64_t ldx, std::int64_t begin,
                      std::int64_t end, std::int64_t columns, std::byte* out, Isa isa = active_isa());

// The same for the columns [begin, end) of one row, whose values are at x. `begin` is a multiple of 256, and
// `end` as well where it is not `columns`.
void pack_columns(ActivationFormat format, const float* x, std::int64_t begin, std::int64_t end,
                  std::int64_t columns, std::byte* row, Isa isa = active_isa());

// Rows of activations that a product takes in one pass over the weights; for more it goes over them again.
int product_pass_rows();

// W [rows, columns] in panels of kPanel rows, interleaved so that one vector holds the same columns of all
// rows.
//
// Invariant (batch invariance): an element of the product depends on its weight row, its activation row and
// the format of this alone, never on how many rows either operand has or how the work was split.
class PackedMatrix {
 public:
  static constexpr int kPanel = 16;

  // `scale` is a factor of all weights, for formats whose own scales have a short range. `coded`: BF16 takes
  // 12 bits, where kernels have it so and pack() finds it possible.
  PackedMatrix(Format format, std::int64_t rows, std::int64_t columns, float scale = 1.0f, bool coded = true);
  PackedMatrix(PackedMatrix&&) = default;
  PackedMatrix& operator=(PackedMatrix&&) = default;

  // Repacks GGUF rows from panel_begin * kPanel on; `rows` is the first byte of row 0. Thread-safe on
  // disjoint ranges. False where they cannot be coded: then all are to be packed again, into another matrix.
  [[nodiscard]] bool pack(const std::byte* rows, std::int64_t panel_begin, std::int64_t panel_end);

  // y[i, r] = sum_c activation[i, c] * W[r, c] for i in [0, m) and r in the panels; rows of y are ldy floats
  // apart. `activations` are in one of the formats that activation_format() gives for these weights.
  void multiply(ActivationFormat activation, const std::byte* activations, std::int64_t m,
                std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) const;

  Format format() const { return format_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  std::size_t bytes() const { return bytes_; }
  std::size_t panel_bytes() const { return panel_bytes_; }

 private:
  Format format_;
  std::int64_t rows_, columns_;
  float scale_;
  bool coded_;
  std::size_t panel_bytes_, bytes_;
  std::shared_ptr<std::byte> data_;
};

}  // namespace trivet
