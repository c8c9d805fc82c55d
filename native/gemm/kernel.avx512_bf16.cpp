#include "gemm/kernel_float_pairs.h"
#include "gemm/vectors_avx512_bf16.h"
#include "gemm/weights_permuted.h"

namespace trivet {
namespace {

// Processors with BF16 and VBMI but without AMX are AMD's. Where weights lie in the order of their use they
// fetch them better themselves: a single row is 4 to 10 % faster with two threads, measured, and 5 to 50 %
// with one. For more rows they do not look far enough ahead.
template <class K>
using SelfFetching = OneRow<K, false>;

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
  set(Format::BF16, multiply_floats<V, KernelBF16Pairs<V>, SelfFetching<KernelBF16Pairs<V>>>);
  set(Format::F16, multiply_floats<V, KernelF16<V>, SelfFetching<KernelF16<V>>>);
#define TRIVET_SET(name)                                             \
  set(Format::name, multiply<V, Block256Kernel<V, Permuted##name>>); \
  kernels.order[static_cast<int>(Format::name)] = kOrder<Permuted##name<V>>;
  TRIVET_PERMUTED_FORMATS(TRIVET_SET)
#undef TRIVET_SET
#define TRIVET_SET(name, group, weights, fetch)                         \
  set(Format::name, multiply<V, Block##group##Kernel<V, weights##name>, \
                             OneRow<Block##group##Kernel<SingleRow, weights##name>, fetch>>);
  TRIVET_SET(Q1_0, 32, Weights, true)
  TRIVET_SET(Q2_0, 32, Weights, true)
  TRIVET_SET(Q3_K, 256, Weights, true)
  TRIVET_SET(IQ1_S, 256, Permuted, true)
  TRIVET_SET(IQ1_M, 256, Permuted, true)
  TRIVET_SET(TQ1_0, 256, Permuted, true)
  TRIVET_SET(Q2_K, 256, Weights, false)
  TRIVET_SET(Q4_K, 256, Weights, false)
  TRIVET_SET(IQ4_XS, 256, Weights, false)
  TRIVET_SET(TQ2_0, 256, Weights, false)
#undef TRIVET_SET
  return kernels;
}

}  // namespace

extern const Bf16Kernels kAvx512Bf16Kernels = make_bf16_kernels();

}  // namespace trivet
