#include "gemm/panel.h"

#include <cstring>

#include "formats/blocks.h"

namespace trivet {
namespace {

std::size_t align64(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// out[v][r][0..3] = bytes 4v..4v+3 of field(r), for v < quads.
template <class Field>
void interleave(int quads, Field field, std::uint8_t* out) {
  for (int r = 0; r < kPanelRows; ++r) {
    const void* bytes = field(r);
    for (int v = 0; v < quads; ++v) {
      std::memcpy(out + (v * kPanelRows + r) * 4, static_cast<const std::byte*>(bytes) + 4 * v, 4);
    }
  }
}

template <class Value>
void pack_columns(const std::byte* const rows[], std::int64_t columns, int group, std::byte* panel) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (int r = 0; r < kPanelRows; ++r) {
      const std::int64_t at = (c / group * kPanelRows + r) * group + c % group;
      std::memcpy(panel + at * sizeof(Value), rows[r] + c * sizeof(Value), sizeof(Value));
    }
  }
}

template <class Block>
const Block* block_at(const std::byte* row, std::int64_t index) {
  return reinterpret_cast<const Block*>(row + index * sizeof(Block));
}

// GGUF blocks have an even size, but a mapped file's rows need not be aligned.
std::uint16_t load_half(const void* p) {
  std::uint16_t half;
  std::memcpy(&half, p, sizeof half);
  return half;
}

template <class Block, class Panel>
void pack_blocks32(const std::byte* const rows[], std::int64_t blocks, std::byte* panel, std::byte* scales) {
  for (std::int64_t b = 0; b < blocks; ++b) {
    auto* out = reinterpret_cast<Panel*>(panel) + b;
    auto* d = reinterpret_cast<std::uint16_t*>(scales) + b * kPanelRows;
    interleave(sizeof(Panel) / 64, [&](int r) { return block_at<Block>(rows[r], b)->q; }, out->quads[0]);
    for (int r = 0; r < kPanelRows; ++r) d[r] = load_half(block_at<Block>(rows[r], b));
  }
}

void pack_step(const BlockQ4_K* const blocks[], PanelQ4_K& out) {
  interleave(32, [&](int r) { return blocks[r]->q; }, out.quads[0]);
  for (int r = 0; r < kPanelRows; ++r) {
    for (int run = 0; run < 8; ++run) {
      const ScaleMin packed = unpack_scale(*blocks[r], run);
      reinterpret_cast<std::uint8_t*>(&out.scales[run / 4][r])[run % 4] = packed.scale;
      reinterpret_cast<std::uint8_t*>(&out.mins[run / 4][r])[run % 4] = packed.min;
    }
    out.d[r] = load_half(&blocks[r]->d);
    out.dmin[r] = load_half(&blocks[r]->dmin);
  }
}

void pack_step(const BlockQ6_K* const blocks[], PanelQ6_K& out) {
  interleave(32, [&](int r) { return blocks[r]->low; }, out.low[0]);
  interleave(16, [&](int r) { return blocks[r]->high; }, out.high[0]);
  for (int r = 0; r < kPanelRows; ++r) {
    for (int g = 0; g < 4; ++g) std::memcpy(&out.scales[g][r], blocks[r]->scales + 4 * g, 4);
    out.d[r] = load_half(&blocks[r]->d);
  }
}

template <class Block, class Panel>
void pack_steps(const std::byte* const rows[], std::int64_t steps, std::byte* panel) {
  for (std::int64_t s = 0; s < steps; ++s) {
    const Block* blocks[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) blocks[r] = block_at<Block>(rows[r], s);
    pack_step(blocks, reinterpret_cast<Panel*>(panel)[s]);
  }
}

}  // namespace

PanelLayout panel_layout(Format format, std::int64_t columns) {
  const std::size_t n = static_cast<std::size_t>(columns);
  const auto streams = [&](std::size_t block) {
    return PanelLayout{align64(n / 32 * (block + 2 * kPanelRows)), n / 32 * block};
  };
  switch (format) {
    case Format::F32: return {n * 4 * kPanelRows, 0};
    case Format::F16: return {align64(n * 2 * kPanelRows), 0};
    case Format::BF16: return {(n + 1) / 2 * 4 * kPanelRows, 0};
    case Format::Q4_0: return streams(sizeof(PanelQ4_0));
    case Format::Q8_0: return streams(sizeof(PanelQ8_0));
    case Format::Q4_K: return {n / 256 * sizeof(PanelQ4_K), 0};
    case Format::Q6_K: return {n / 256 * sizeof(PanelQ6_K), 0};
  }
  return {};
}

void pack_panel(Format format, const std::byte* const rows[kPanelRows], std::int64_t columns,
                std::byte* panel) {
  const PanelLayout layout = panel_layout(format, columns);
  switch (format) {
    case Format::F32: pack_columns<float>(rows, columns, 1, panel); break;
    case Format::F16: pack_columns<std::uint16_t>(rows, columns, 1, panel); break;
    case Format::BF16: pack_columns<std::uint16_t>(rows, columns, 2, panel); break;
    case Format::Q4_0:
      pack_blocks32<BlockQ4_0, PanelQ4_0>(rows, columns / 32, panel, panel + layout.scales);
      break;
    case Format::Q8_0:
      pack_blocks32<BlockQ8_0, PanelQ8_0>(rows, columns / 32, panel, panel + layout.scales);
      for (std::size_t i = 0; i < layout.scales; ++i) panel[i] ^= std::byte{0x80};
      break;
    case Format::Q4_K: pack_steps<BlockQ4_K, PanelQ4_K>(rows, columns / 256, panel); break;
    case Format::Q6_K: pack_steps<BlockQ6_K, PanelQ6_K>(rows, columns / 256, panel); break;
  }
}

}  // namespace trivet
