#include "gemm/kernel_bytes.h"
#include "gemm/kernel_float_pairs.h"
#include "gemm/vectors_avx512.h"

namespace trivet {
namespace {

constexpr Kernels make_avx512_kernels() {
  Kernels kernels = make_kernels<Avx512>();
  kernels.multiply[static_cast<int>(Format::F32)] = multiply_floats<Avx512, KernelF32<Avx512>>;
  kernels.multiply[static_cast<int>(Format::F16)] = multiply_floats<Avx512, KernelF16<Avx512>>;
#define TRIVET_SET(name, group)                            \
  kernels.multiply_bytes[static_cast<int>(Format::name)] = \
      multiply<Avx512, BytesKernel<Avx512, Block##group##Kernel<Avx512, Weights##name>>>;
  TRIVET_BYTE_FORMATS(TRIVET_SET)
#undef TRIVET_SET
  kernels.few_rows = 31;
  return kernels;
}

}  // namespace

extern const Kernels kAvx512Kernels = make_avx512_kernels();

}  // namespace trivet
