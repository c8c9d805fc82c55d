#include "gemm/kernels.h"

namespace trivet {

const Kernels& kernels(Isa isa) {
  switch (isa) {
#ifdef __x86_64__
    case Isa::avx2:
      return kAvx2Kernels;
    case Isa::avx512:
      return kAvx512Kernels;
    case Isa::amx:
      return kAmxKernels;
#endif
    default:
      return kGenericKernels;
  }
}

Kernels::Multiply product_kernel(Format weights, ActivationFormat activation, Isa isa) {
  const Kernels& k = kernels(isa);
  const bool exact = activation == activation_format(weights, Numerics::exact, 1, Inputs::usual, isa);
  const bool bytes = activation == ActivationFormat::q8_256_fast;
  return (exact ? k.multiply : bytes ? k.multiply_bytes : k.multiply_rounded)[static_cast<int>(weights)];
}

}  // namespace trivet
