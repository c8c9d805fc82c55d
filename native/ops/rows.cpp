#include "ops/rows.h"

#include "ops/rows_kernels.h"

namespace trivet {

extern const RowKernels kRowKernelsAvx2;
extern const RowKernels kRowKernelsAvx512;

const RowKernels& row_kernels([[maybe_unused]] Isa isa) {
#ifdef __x86_64__
  if (isa >= Isa::avx512) return kRowKernelsAvx512;
  if (isa == Isa::avx2) return kRowKernelsAvx2;
#endif
  return kRowKernels;
}

std::int64_t rotary_width(std::int64_t pairs, bool interleaved) {
  return interleaved ? 4 * pairs : 2 * pairs;
}

void rotary_row(std::int32_t position, const double* inv_freq, std::int64_t pairs, bool interleaved,
                double magnitude, float* row) {
  float* cosines = row;
  float* sines = row + rotary_width(pairs, interleaved) / 2;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const double angle = position * inv_freq[i];
    const float c = static_cast<float>(std::cos(angle) * magnitude),
                s = static_cast<float>(std::sin(angle) * magnitude);
    if (interleaved) {
      cosines[2 * i] = cosines[2 * i + 1] = c;
      sines[2 * i] = -s;
      sines[2 * i + 1] = s;
    } else {
      cosines[i] = c;
      sines[i] = s;
    }
  }
}

}  // namespace trivet
