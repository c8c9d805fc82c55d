// Operations on one row of float32 values. A result depends on its row alone; outputs may overlay inputs
// exactly.
#pragma once

#include <cstdint>

#include "isa.h"

namespace trivet {

enum class Activation { silu, gelu_tanh, gelu };

struct RowKernels {
  // y = x / sqrt(mean(x^2) + eps) * weight, over each `group` of columns alone; weight [group] serves every
  // group.
  void (*rms_norm)(const float* x, const float* weight, float eps, std::int64_t width, std::int64_t group,
                   float* y);

  void (*add)(const float* a, const float* b, std::int64_t width, float* y);

  // y += factor * x
  void (*add_scaled)(const float* x, float factor, std::int64_t width, float* y);

  void (*scale)(const float* x, float factor, std::int64_t width, float* y);

  // y = act(gate) * up
  void (*act_mul)(Activation act, const float* gate, const float* up, std::int64_t width, float* y);

  // y = cap * tanh(scale * x / cap), or scale * x for cap 0
  void (*softcap)(const float* x, float scale, float cap, std::int64_t width, float* y);

  void (*softmax)(const float* x, std::int64_t width, float* y);

  // Rotates the first 2 * pairs columns of each head: see rotary_row.
  void (*rope)(const float* x, const float* rotary, std::int64_t heads, std::int64_t head_dim,
               std::int64_t pairs, bool interleaved, float* y);

  // The largest of x, which holds no NaN; `width` > 0.
  float (*max)(const float* x, std::int64_t width);

  // The largest of x; NaN when any value is NaN or infinite. `width` > 0.
  float (*finite_max)(const float* x, std::int64_t width);
};

const RowKernels& row_kernels(Isa isa = active_isa());

// Floats of a row of the table that `rope` takes.
std::int64_t rotary_width(std::int64_t pairs, bool interleaved);

// Cosines, then sines, of the angles position * inv_freq[i], times `magnitude`. Interleaved pairs are
// neighbours, and have their cosine twice, their sine once negated and once not.
void rotary_row(std::int32_t position, const double* inv_freq, std::int64_t pairs, bool interleaved,
                double magnitude, float* row);

}  // namespace trivet
