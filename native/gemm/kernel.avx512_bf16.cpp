#include "gemm/kernel_float_pairs.h"
#include "gemm/vectors_avx512_bf16.h"
#include "gemm/weights_permuted.h"

namespace trivet {
namespace {

constexpr Bf16Kernels make_bf16_kernels() {
  using V = Avx512Bf16;
  Bf16Kernels kernels = {
      .round = round_bf16,
      .quantize_q8_256 = Quantize<V>::kOfOrders,
      .order = {},
      .multiply = {},
  };
  const auto set = [&](Format format, Kernels::Multiply multiply) {
    kernels.multiply[static_cast<int>(format)] = multiply;
  };
  set(Format::BF16, multiply_floats<V, KernelBF16Pairs<V>>);
#define TRIVET_SET(name)                                             \
  set(Format::name, multiply<V, Block256Kernel<V, Permuted##name>>); \
  kernels.order[static_cast<int>(Format::name)] = kOrder<Permuted##name<V>>;
  TRIVET_PERMUTED_FORMATS(TRIVET_SET)
#undef TRIVET_SET
  return kernels;
}

}  // namespace

extern const Bf16Kernels kAvx512Bf16Kernels = make_bf16_kernels();

}  // namespace trivet
