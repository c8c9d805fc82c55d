#include "gemm/kernels.h"

namespace trivet {

namespace {

#ifdef __x86_64__

const Kernels& avx512_bf16_kernels() {
  static const Kernels kernels = [] {
    Kernels all = kAvx512Kernels;
    all.round_bf16 = kAvx512Bf16Kernels.round;
    all.quantize_q8_256 = kAvx512Bf16Kernels.quantize_q8_256;
    all.order = kAvx512Bf16Kernels.order;
    for (int format = 0; format < kFormats; ++format) {
      const auto own = kAvx512Bf16Kernels.multiply[format];
      if (own != nullptr) all.multiply[format] = own;
    }
    return all;
  }();
  return kernels;
}

#endif

}  // namespace

const Kernels& kernels(Isa isa) {
  switch (isa) {
#ifdef __x86_64__
    case Isa::avx2:
      return kAvx2Kernels;
    case Isa::avx512:
      return kAvx512Kernels;
    case Isa::avx512_bf16:
      return avx512_bf16_kernels();
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
