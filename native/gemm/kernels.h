// The routines that exist once per instruction set, and the set in use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "gemm/activations.h"
#include "gemm/matrix.h"
#include "gemm/panel.h"
#include "isa.h"

namespace trivet {

// A packed matrix as kernels see it.
struct Panels {
  const std::byte* data;
  PanelLayout layout;
  std::int64_t rows, columns;
  float scale;
};

struct Kernels {
  // One row of `columns` floats to ActivationStep32 or ActivationStep256.
  void (*quantize_q8_32)(const float* x, std::int64_t columns, std::byte* out);
  // By the order of columns; null for those that no weights want.
  using Quantize = void (*)(const float* x, std::int64_t columns, std::byte* out);
  std::array<Quantize, kColumnOrders> quantize_q8_256;
  // For multiply_bytes: a step of up to 256 columns.
  void (*quantize_q8_256_fast)(const float* x, std::int64_t columns, std::int8_t* q, ByteStep& step);
  std::array<ColumnOrder, kFormats> order;  // that weights want, by number of the format
  // To bfloat16, for those kernels that multiply bfloat16 weights with such rows; else null.
  void (*round_bf16)(const float* x, std::int64_t columns, std::byte* out);

  // PackedMatrix::multiply; rows of x are `stride` bytes apart.
  using Multiply = void (*)(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                            std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy);
  std::array<Multiply, kFormats> multiply;  // by number of the format
  // The same of weights in blocks that are rounded to bfloat16, of rows of round_bf16, and to int8, of those
  // of quantize_q8_256_fast. Null where that is not faster, or not exact enough.
  std::array<Multiply, kFormats> multiply_rounded, multiply_bytes;
  // Of BF16 weights in PanelCodedBF16, and what makes a panel of them; that is false for some. Null where
  // plain ones are as fast.
  Multiply multiply_coded;
  bool (*code_panel)(const std::byte* const rows[kPanelRows], std::int64_t columns, std::byte* panel);
  int pass_rows;  // rows of x that take part in one pass over the weights
  int few_rows;   // that `multiply` takes no more time for than those of rounded weights
};

extern const Kernels kGenericKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAmxKernels;

// What avx512_bf16 has in place of kAvx512Kernels; products are null where it has the same.
struct Bf16Kernels {
  decltype(Kernels::round_bf16) round;
  decltype(Kernels::quantize_q8_256) quantize_q8_256;
  decltype(Kernels::order) order;
  decltype(Kernels::multiply) multiply;
};
extern const Bf16Kernels kAvx512Bf16Kernels;

const Kernels& kernels(Isa isa = active_isa());

// Multiplies weights of a format with rows in one of those that activation_format() gives for it.
Kernels::Multiply product_kernel(Format weights, ActivationFormat activation, Isa isa = active_isa());

}  // namespace trivet
