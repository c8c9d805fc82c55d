#include "gemm/panel.h"

#include <cstddef>
#include <cstring>

#include "gemm/pack_block32.h"
#include "gemm/pack_grid.h"
#include "gemm/pack_k.h"

namespace trivet {
namespace {

std::size_t align64(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

template <class Value>
void pack_floats(const std::byte* const rows[], std::int64_t columns, int group, std::byte* panel) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (int r = 0; r < kPanelRows; ++r) {
      const std::int64_t at = (c / group * kPanelRows + r) * group + c % group;
      std::memcpy(panel + at * sizeof(Value), rows[r] + c * sizeof(Value), sizeof(Value));
    }
  }
}

// Of a block's d.
constexpr std::size_t kHalvesBytes = 2 * kPanelRows;

// Bytes of a panel's main stream for one block.
template <class Panel, int kColumns>
constexpr std::size_t main_bytes() {
  return kColumns == 256 ? sizeof(Panel) : kColumns / 32 * sizeof(Panel);
}

template <class Block, class Panel, int kColumns>
PanelLayout block_layout(std::int64_t columns) {
  const std::size_t blocks = static_cast<std::size_t>(columns / kColumns);
  const std::size_t main = blocks * main_bytes<Panel, kColumns>();
  if (kColumns == 256 && !kDApart<Panel>) return {main, 0};
  const std::size_t scales =
      align64(kDApart<Panel> ? blocks * kHalvesBytes : blocks * sizeof(Block) * kPanelRows - main);
  return {scales + main, scales};
}

// The scales of a small block are its first bytes, one each in MXFP4 and NVFP4, two each in the others.
template <class Block, std::size_t kBytes>
void pack_scales(Rows<Block> rows, std::int64_t block, std::byte* scales) {
  constexpr std::size_t kSize = sizeof(Block) % 2 == 1 || alignof(Block) == 1 ? 1 : 2;
  std::byte* out = scales + static_cast<std::size_t>(block) * kBytes * kPanelRows;
  for (std::size_t i = 0; i < kBytes; i += kSize) {
    for (int r = 0; r < kPanelRows; ++r, out += kSize) {
      std::memcpy(out, reinterpret_cast<const std::byte*>(rows[r]) + i, kSize);
    }
  }
}

template <class Block, class Panel, int kColumns>
void pack_blocks(const std::byte* const rows[], std::int64_t columns, std::byte* panel) {
  constexpr int kParts = kColumns == 256 ? 1 : kColumns / 32;
  auto* out = reinterpret_cast<Panel*>(panel + block_layout<Block, Panel, kColumns>(columns).steps);
  for (std::int64_t b = 0; b < columns / kColumns; ++b) {
    const Block* blocks[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      blocks[r] = reinterpret_cast<const Block*>(rows[r] + b * static_cast<std::int64_t>(sizeof(Block)));
    }
    // Processors foresee no reading of so many rows at once: as much of the next panel is on its way.
    const std::byte* ahead =
        rows[0] + kPanelRows * (columns / kColumns + b) * static_cast<std::int64_t>(sizeof(Block));
    for (std::size_t i = 0; i < kPanelRows * sizeof(Block); i += 64) __builtin_prefetch(ahead + i, 0, 2);
    for (int part = 0; part < kParts; ++part) pack(blocks, part, *out++);
    if constexpr (kDApart<Panel>) {
      store_halves([&](int r) { return &blocks[r]->d; }, panel + static_cast<std::size_t>(b) * kHalvesBytes);
    } else if constexpr (kColumns != 256) {
      pack_scales<Block, sizeof(Block) - kParts * sizeof(Panel) / kPanelRows>(blocks, b, panel);
    }
  }
}

}  // namespace

PanelLayout panel_layout(Format format, std::int64_t columns) {
  const std::size_t n = static_cast<std::size_t>(columns);
  switch (format) {
    case Format::F32:
      return {n * 4 * kPanelRows, 0};
    case Format::F16:
      return {align64(n * 2 * kPanelRows), 0};
    case Format::BF16:
      return {(n + 1) / 2 * 4 * kPanelRows, 0};
#define TRIVET_CASE(name, id, values, group) \
  case Format::name:                         \
    return block_layout<Block##name, Panel##name, values>(columns);
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
  return {};
}

PanelLayout coded_layout(std::int64_t columns) {
  constexpr std::size_t kHead = offsetof(PanelCodedBF16, groups), kGroup = sizeof(PanelCodedBF16::Group);
  const std::int64_t rest = columns % 256;
  const std::size_t last =
      rest == 0 ? 0 : kHead + static_cast<std::size_t>(PanelCodedBF16::groups_of(rest)) * kGroup;
  return {static_cast<std::size_t>(columns / 256) * sizeof(PanelCodedBF16) + last, 0};
}

void pack_panel(Format format, const std::byte* const rows[kPanelRows], std::int64_t columns,
                std::byte* panel) {
  switch (format) {
    case Format::F32:
      pack_floats<float>(rows, columns, 1, panel);
      break;
    case Format::F16:
      pack_floats<std::uint16_t>(rows, columns, 1, panel);
      break;
    case Format::BF16:
      pack_floats<std::uint16_t>(rows, columns, 2, panel);
      break;
#define TRIVET_CASE(name, id, values, group)                             \
  case Format::name:                                                     \
    pack_blocks<Block##name, Panel##name, values>(rows, columns, panel); \
    break;
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
}

}  // namespace trivet
