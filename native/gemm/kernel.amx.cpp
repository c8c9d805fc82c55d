// AMX beside AVX-512: see kernel_tiles.h, kernel_tiles_bf16.h and kernel_tiles_bytes.h. What tiles do not
// compute is left to the kernels of AVX-512.
#include "gemm/coded_tiles.h"
#include "gemm/kernel_tiles_block256.h"
#include "gemm/kernel_tiles_block32.h"
#include "gemm/kernel_tiles_bytes.h"
#include "gemm/weights_permuted.h"

namespace trivet {
namespace {

template <Format format>
void multiply_vectors(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                      std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  kernels(Isa::avx512).multiply[static_cast<int>(format)](w, x, stride, m, panel_begin, panel_end, y, ldy);
}

// Measured, to take bits as SingleRow does makes a single row of Q1_0 28 % faster, of others up to 10 %.
template <class K, class Single>
constexpr Kernels::Multiply multiply_few = multiply<Avx512Bf16, K, OneRow<Single, true>>;
template <template <class> class Weights>
constexpr Kernels::Multiply multiply_permuted =
    multiply_few<Block256Kernel<Avx512Bf16, Weights>, Block256Kernel<SingleRow, Weights>>;
template <template <class> class Weights>
constexpr Kernels::Multiply multiply_block32 =
    multiply_few<Block32Kernel<Avx512Bf16, Weights>, Block32Kernel<SingleRow, Weights>>;

// A tile costs the same for any number of rows.
template <Kernels::Multiply few, class K>
void multiply_any(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                  std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  (m <= Avx512Bf16::kByteRows ? few : multiply_tiles<K>)(w, x, stride, m, panel_begin, panel_end, y, ldy);
}

constexpr Kernels make_amx_kernels() {
  Kernels kernels = {
      .quantize_q8_32 = Quantize<Avx512Bf16>::q8_32,
      .quantize_q8_256 = Quantize<Avx512Bf16>::kOfOrders,
      .quantize_q8_256_fast = Quantize<Avx512Bf16>::q8_256_fast,
      .order = {},
      .round_bf16 = round_bf16,
      .multiply = {},
      .multiply_rounded = {},
      .multiply_bytes = {},
      .multiply_coded = multiply_coded,
      .code_panel = code_panel,
      .pass_rows = kTileChunk,
      .few_rows = 12,  // 7 (of Q8_0) to 13 (of Q4_0)
  };
  const auto set = [&](Format format, Kernels::Multiply multiply) {
    kernels.multiply[static_cast<int>(format)] = multiply;
  };
  set(Format::F32, multiply_vectors<Format::F32>);
  set(Format::F16, multiply_vectors<Format::F16>);
  set(Format::BF16, multiply_tiles_bf16<StoredTiles>);
#define TRIVET_TILES(name, group, weights, few)                     \
  set(Format::name, multiply_any<few, TileKernel##group<weights>>); \
  kernels.multiply_rounded[static_cast<int>(Format::name)] =        \
      multiply_tiles_bf16<RoundedTiles<Block##group##Kernel<Avx512Bf16, weights>>>;
#define TRIVET_SET(name, id, values, group) \
  TRIVET_TILES(name, group, Weights##name, multiply_vectors<Format::name>)
  TRIVET_BLOCK_FORMATS(TRIVET_SET)
#undef TRIVET_SET
#define TRIVET_SET(name)                                                     \
  TRIVET_TILES(name, 256, Permuted##name, multiply_permuted<Permuted##name>) \
  kernels.order[static_cast<int>(Format::name)] = kOrder<Permuted##name<Avx512Bf16>>;
  TRIVET_PERMUTED_FORMATS(TRIVET_SET)
#undef TRIVET_SET
  TRIVET_TILES(Q1_0, 32, WeightsQ1_0, multiply_block32<WeightsQ1_0>)
  TRIVET_TILES(Q2_0, 32, WeightsQ2_0, multiply_block32<WeightsQ2_0>)
  // Tiles know of no signs for eight columns.
  TRIVET_TILES(IQ1_M, 256, EighthsIQ1_M, multiply_permuted<PermutedIQ1_M>)
#undef TRIVET_TILES
#define TRIVET_SET(name, group)                            \
  kernels.multiply_bytes[static_cast<int>(Format::name)] = \
      multiply_tiles_bytes<Block##group##Kernel<Avx512Bf16, Weights##name>>;
  TRIVET_BYTE_FORMATS(TRIVET_SET)
#undef TRIVET_SET
  return kernels;
}

}  // namespace

extern const Kernels kAmxKernels = make_amx_kernels();

}  // namespace trivet
