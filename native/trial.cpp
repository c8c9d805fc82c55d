#include "trial.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "attention/attention.h"
#include "formats/blocks.h"
#include "gemm/activations.h"
#include "gemm/kernels.h"
#include "gemm/memory.h"
#include "ops/rows.h"

namespace trivet {
namespace {

using Floats = std::vector<float>;

Floats random_floats(std::size_t count) {
  std::mt19937 random(static_cast<std::uint32_t>(count));
  std::uniform_real_distribution<float> values(-1, 1);
  Floats floats(count);
  for (float& value : floats) value = values(random);
  return floats;
}

double difference(const Floats& values, const Floats& others) {
  double squares = 0, total = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double d = static_cast<double>(values[i]) - others[i];
    squares += d * d;
    total += static_cast<double>(others[i]) * others[i];
  }
  const double share = std::sqrt(squares / (total + std::numeric_limits<double>::min()));
  return std::isfinite(share) ? share : std::numeric_limits<double>::infinity();
}

// The last panel, the last step and the last tile of activation rows are not full.
constexpr std::int64_t kColumns = 2 * kStep, kOutputs = 3 * kPanelRows - 5;

// Makes numbers, not too large, of scales of any bits.
template <class Block>
void tame(Block& block) {
  constexpr std::uint16_t kSmall = 0x3f3f;
  if constexpr (requires { block.d; }) block.d &= kSmall;
  if constexpr (requires { block.m; }) block.m &= kSmall;
  if constexpr (requires { block.dmin; }) block.dmin &= kSmall;
  if constexpr (requires { block.exponent; }) block.exponent &= 0x3f;
  if constexpr (requires { block.scale; }) {
    for (auto& scale : block.scale) scale &= 0x3f;
  }
}
void tame(BlockIQ1_M& block) {
  for (auto& scale : block.scales) scale &= 0x3f;  // d is in these
}

void tame(Format format, std::byte* row) {
  switch (format) {
#define TRIVET_CASE(name, id, values, group)                                          \
  case Format::name:                                                                  \
    for (std::int64_t c = 0; c < kColumns; c += values, row += sizeof(Block##name)) { \
      Block##name block;                                                              \
      std::memcpy(&block, row, sizeof block);                                         \
      tame(block);                                                                    \
      std::memcpy(row, &block, sizeof block);                                         \
    }                                                                                 \
    break;
    TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
    default:
      for (std::size_t i = 0; i < row_bytes(format, kColumns); ++i) row[i] &= std::byte(0x3f);
  }
}

// Packed weights of any bits but for scales. `tame` changes a row, `pack` makes a panel of sixteen.
template <class Tame, class Pack>
std::shared_ptr<std::byte> random_weights(Format format, const PanelLayout& layout, const Tame& tame,
                                          const Pack& pack) {
  std::mt19937 random(static_cast<std::uint32_t>(format));
  const std::size_t stride = row_bytes(format, kColumns);
  std::vector<std::byte> rows(kPanelRows * stride);
  const std::int64_t panels = (kOutputs + kPanelRows - 1) / kPanelRows;
  auto packed = allocate_weights(panels * layout.bytes);
  for (std::int64_t p = 0; p < panels; ++p) {
    for (std::byte& b : rows) b = static_cast<std::byte>(random() & 0xff);
    const std::byte* sources[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      tame(&rows[r * stride]);
      sources[r] = &rows[r * stride];
    }
    pack(sources, packed.get() + p * layout.bytes);
  }
  return packed;
}

Floats product(const Panels& w, Kernels::Multiply multiply, ActivationFormat activations, std::int64_t rows,
               Isa isa) {
  const Floats x = random_floats(rows * kColumns);
  const std::size_t stride = activation_row_bytes(activations, kColumns);
  const auto packed = allocate_weights(rows * stride);
  pack_activations(activations, x.data(), kColumns, 0, rows, kColumns, packed.get(), isa);
  Floats y(rows * kOutputs);
  const std::int64_t panels = (kOutputs + kPanelRows - 1) / kPanelRows;
  multiply(w, packed.get(), stride, rows, 0, panels, y.data(), kOutputs);
  return y;
}

Floats product(const Panels& w, Format format, Numerics numerics, Inputs inputs, std::int64_t rows, Isa isa) {
  const ActivationFormat activations = activation_format(format, numerics, rows, inputs, isa);
  return product(w, product_kernel(format, activations, isa), activations, rows, isa);
}

double product_difference(Format format, Isa isa, Isa other) {
  const PanelLayout layout = panel_layout(format, kColumns);
  const auto weights = random_weights(
      format, layout, [&](std::byte* row) { tame(format, row); },
      [&](const std::byte* const rows[], std::byte* panel) { pack_panel(format, rows, kColumns, panel); });
  const Panels w = {weights.get(), layout, kOutputs, kColumns, 1.0f};
  double most = 0;
  for (std::int64_t rows : {1, 7, 37}) {
    const Floats expected = product(w, format, Numerics::exact, Inputs::usual, rows, other);
    for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
      for (Inputs inputs : {Inputs::usual, Inputs::last}) {
        most = std::max(most, difference(product(w, format, numerics, inputs, rows, isa), expected));
      }
    }
  }
  return most;
}

// Of bfloat16 weights in 12 bits with `isa`, and in 16 with the other.
double coded_difference(Isa isa, Isa other) {
  const Kernels& k = kernels(isa);
  if (k.multiply_coded == nullptr) return 0;
  // Few exponents, but for some weights that are 0.
  const auto few_exponents = [](std::byte* row) {
    for (std::int64_t c = 0; c < kColumns; ++c) {
      row[2 * c] &= std::byte(c % 97 == 5 ? 0 : 0xff);
      row[2 * c + 1] &= std::byte(c % 97 == 5 ? 0 : 0x83);
      row[2 * c + 1] |= std::byte(c % 97 == 5 ? 0 : 0x38);
    }
  };
  bool coded = true;
  const auto plain = random_weights(Format::BF16, panel_layout(Format::BF16, kColumns), few_exponents,
                                    [](const std::byte* const rows[], std::byte* panel) {
                                      pack_panel(Format::BF16, rows, kColumns, panel);
                                    });
  const auto weights = random_weights(Format::BF16, coded_layout(kColumns), few_exponents,
                                      [&](const std::byte* const rows[], std::byte* panel) {
                                        coded = coded && k.code_panel(rows, kColumns, panel);
                                      });
  if (!coded) return std::numeric_limits<double>::infinity();
  const Panels w = {weights.get(), coded_layout(kColumns), kOutputs, kColumns, 1.0f};
  const Panels other_w = {plain.get(), panel_layout(Format::BF16, kColumns), kOutputs, kColumns, 1.0f};
  double most = 0;
  for (std::int64_t rows : {1, 7, 37}) {
    const Floats expected = product(other_w, Format::BF16, Numerics::exact, Inputs::usual, rows, other);
    const Floats got = product(w, k.multiply_coded, ActivationFormat::bf16, rows, isa);
    most = std::max(most, difference(got, expected));
  }
  return most;
}

// A piece of a prompt, then a token, behind a context, whose last chunk and last tile of keys are not full.
Floats attention(CacheTypes types, Numerics numerics, Isa isa) {
  constexpr int kHeads = 6, kKvHeads = 2, kHeadDim = 80, kTokens = 9, kContext = 70;
  constexpr std::int64_t kWidth = kHeads * kHeadDim, kKvWidth = kKvHeads * kHeadDim;
  KvCache cache(types, {{kKvHeads, kHeadDim}});
  cache.allocate((kContext + kTokens) / CacheLayer::kTile + 1, CacheLayer::kTile);
  const CacheLayer& layer = cache.layers().front();
  const AttentionKernels& kernels = attention_kernels(types, numerics, isa);
  const Floats q = random_floats(kTokens * kWidth), k = random_floats((kContext + kTokens) * kKvWidth);
  std::vector<std::int32_t> blocks;
  for (int i = 0; i < kContext + kTokens; ++i) {
    const int tile = i / CacheLayer::kTile, lane = i % CacheLayer::kTile;
    if (lane == 0) blocks.push_back(tile);
    kernels.store(layer, tile, lane, &k[i * kKvWidth], &k[(kContext + kTokens - 1 - i) * kKvWidth]);
  }
  const AttentionShape shape = {kHeads, kKvHeads, kHeadDim, 0.3f, 0, 0};
  Floats y(q.size());
  const AttentionCall call = {shape, layer, CacheLayer::kTile, q.data(), kWidth, nullptr, y.data(), kWidth};
  const auto scratch = allocate_weights(kernels.scratch_floats(shape) * sizeof(float));
  for (int head = 0; head < kKvHeads; ++head) {
    for (const auto& [row, tokens] : {std::pair{0, kTokens - 1}, std::pair{kTokens - 1, 1}}) {
      kernels.attend(call, {row, tokens, kContext + row, blocks.data(), 0, 1, -1}, head,
                     reinterpret_cast<float*>(scratch.get()), nullptr);
    }
  }
  return y;
}

Floats row_operations(Isa isa) {
  constexpr std::int64_t kWidth = 3 * 32, kPairs = 12;
  const RowKernels& kernels = row_kernels(isa);
  const Floats x = random_floats(kWidth), other = random_floats(kWidth + 1);
  Floats results = {kernels.max(x.data(), kWidth - 1), kernels.finite_max(x.data(), kWidth - 1)};
  const auto add = [&](auto operation) {
    Floats y = other;
    operation(y.data());
    results.insert(results.end(), y.begin(), y.end());
  };
  add([&](float* y) { kernels.rms_norm(x.data(), other.data(), 1e-5f, kWidth, 32, y); });
  add([&](float* y) { kernels.add(x.data(), other.data(), kWidth - 1, y); });
  add([&](float* y) { kernels.add_scaled(x.data(), 0.7f, kWidth - 1, y); });
  add([&](float* y) { kernels.scale(x.data(), 0.7f, kWidth - 1, y); });
  add([&](float* y) { kernels.softcap(x.data(), 2.0f, 3.0f, kWidth - 1, y); });
  add([&](float* y) { kernels.softmax(x.data(), kWidth - 1, y); });
  for (Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
    add([&](float* y) { kernels.act_mul(activation, x.data(), other.data(), kWidth - 1, y); });
  }
  for (bool interleaved : {false, true}) {
    const double frequencies[kPairs] = {1, 0.5, 0.25, 0.125};
    Floats rotary(rotary_width(kPairs, interleaved));
    rotary_row(3, frequencies, kPairs, interleaved, 1.0, rotary.data());
    add([&](float* y) { kernels.rope(x.data(), rotary.data(), 3, 32, kPairs, interleaved, y); });
  }
  return results;
}

}  // namespace

double kernel_difference(Isa isa, Isa other) {
  double most =
      std::max(difference(row_operations(isa), row_operations(other)), coded_difference(isa, other));
  for (int id = 0; id < kFormats; ++id) {
    const Format format = static_cast<Format>(id);
    if (format_info(format) != nullptr) most = std::max(most, product_difference(format, isa, other));
  }
  constexpr CacheType kTypes[] = {CacheType::f32, CacheType::f16, CacheType::bf16, CacheType::q8_0};
  for (CacheType keys : kTypes) {
    for (CacheType values : kTypes) {
      const Floats expected = attention({keys, values}, Numerics::exact, other);
      for (Numerics numerics : {Numerics::exact, Numerics::fast}) {
        most = std::max(most, difference(attention({keys, values}, numerics, isa), expected));
      }
    }
  }
  return most;
}

}  // namespace trivet
