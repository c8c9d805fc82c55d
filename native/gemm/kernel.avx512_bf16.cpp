#include "gemm/kernel_float_pairs.h"
#include "gemm/vectors_avx512.h"

namespace trivet {
namespace {

struct Avx512Bf16 : Avx512 {
  // sum + the products of two bfloat16 in each lane.
  static F32x16 dot_bf16(F32x16 w, I32x16 x, F32x16 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
};

}  // namespace

extern const Bf16Kernels kAvx512Bf16Kernels = {
    .round = round_bf16,
    .multiply = multiply_floats<Avx512Bf16, KernelBF16Pairs<Avx512Bf16>>,
};

}  // namespace trivet
