#include "gemm/matrix.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "gemm/activations.h"
#include "gemm/kernels.h"
#include "gemm/memory.h"

namespace trivet {
namespace {

std::int64_t steps(std::int64_t columns) { return (columns + kStep - 1) / kStep; }

// Of a row of floats.
std::size_t value_bytes(ActivationFormat format, std::int64_t columns) {
  return static_cast<std::size_t>(columns) * (format == ActivationFormat::bf16 ? 2 : sizeof(float));
}

std::size_t value_lines(ActivationFormat format, std::int64_t columns) {
  return (value_bytes(format, columns) + 63) / 64;
}

ColumnOrder order_of(ActivationFormat format) {
  if (format == ActivationFormat::q8_256_by16) return ColumnOrder::by16;
  if (format == ActivationFormat::q8_256_by32) return ColumnOrder::by32;
  return ColumnOrder::natural;
}

ActivationFormat exact_format(Format weights, Isa isa) {
  switch (kernels(isa).order[static_cast<int>(weights)]) {
    case ColumnOrder::by16:
      return ActivationFormat::q8_256_by16;
    case ColumnOrder::by32:
      return ActivationFormat::q8_256_by32;
    case ColumnOrder::natural:
      break;
  }
  switch (weights) {
    case Format::F32:
    case Format::F16:
      return ActivationFormat::f32;
    case Format::BF16:
      return kernels(isa).round_bf16 == nullptr ? ActivationFormat::f32 : ActivationFormat::bf16;
#define TRIVET_CASE(name, id, values, group) \
  case Format::name:                         \
    return ActivationFormat::q8_##group;
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
  return ActivationFormat::f32;
}

// To round weights to int8 with one scale for 256 columns costs 0.65 %, and their activations 0.7 % or more.
// That is as much as is lost anyhow where these are quantised so with exact numerics, too; where they have a
// scale for 32, only if nothing makes it worse.
bool exact_enough_as_bytes(Format weights, Inputs inputs, Isa isa) {
  if (inputs == Inputs::usual) return true;
  return inputs == Inputs::wide && exact_format(weights, isa) == ActivationFormat::q8_256;
}

// Few columns would take more memory so.
bool is_coded(Format format, std::int64_t columns) {
  return format == Format::BF16 && kernels().multiply_coded != nullptr &&
         coded_layout(columns).bytes < panel_layout(format, columns).bytes;
}

}  // namespace

Inputs inputs_of(std::int64_t columns) { return columns < kStep ? Inputs::wide : Inputs::usual; }

Inputs inputs_named(const std::string& name) {
  if (name == "usual") return Inputs::usual;
  if (name == "wide") return Inputs::wide;
  if (name == "last") return Inputs::last;
  throw std::invalid_argument("inputs must be usual, wide or last, got " + name);
}

ActivationFormat activation_format(Format weights, Numerics numerics, std::int64_t rows, Inputs inputs,
                                   Isa isa) {
  const Kernels& k = kernels(isa);
  if (numerics == Numerics::fast && rows > k.few_rows) {
    const int format = static_cast<int>(weights);
    if (k.multiply_bytes[format] != nullptr && exact_enough_as_bytes(weights, inputs, isa)) {
      return ActivationFormat::q8_256_fast;
    }
    if (k.multiply_rounded[format] != nullptr) return ActivationFormat::bf16;
  }
  return exact_format(weights, isa);
}

std::size_t activation_row_bytes(ActivationFormat format, std::int64_t columns) {
  switch (format) {
    // At most distances rows compete for some of a cache's sets: not with 4 cache lines more than a multiple
    // of 8, for values one by one, or 1 more, for tiles of 16 rows.
    case ActivationFormat::f32:
      return ((value_lines(format, columns) + 3) / 8 * 8 + 4) * 64;
    case ActivationFormat::bf16:
      return ((value_lines(format, columns) + 6) / 8 * 8 + 1) * 64;
    case ActivationFormat::q8_32:
    case ActivationFormat::q8_256:
    case ActivationFormat::q8_256_by16:
    case ActivationFormat::q8_256_by32: {
      const std::size_t step =
          format == ActivationFormat::q8_32 ? sizeof(ActivationStep32) : sizeof(ActivationStep256);
      return (static_cast<std::size_t>(steps(columns)) * step / 64 | 1) * 64;  // likewise
    }
    case ActivationFormat::q8_256_fast:
      return ((byte_row_size(steps(columns)) + 63) / 64 | 1) * 64;
  }
  return 0;
}

void pack_columns(ActivationFormat format, const float* x, std::int64_t begin, std::int64_t end,
                  std::int64_t columns, std::byte* row, Isa isa) {
  const std::int64_t count = end - begin;
  switch (format) {
    case ActivationFormat::f32:
    case ActivationFormat::bf16: {
      std::byte* out = row + value_bytes(format, begin);
      if (format == ActivationFormat::f32) {
        std::memcpy(out, x, value_bytes(format, count));
      } else {
        kernels(isa).round_bf16(x, count, out);
      }
      const std::size_t used = value_bytes(format, end);
      if (end == columns) std::memset(row + used, 0, activation_row_bytes(format, columns) - used);
      break;
    }
    case ActivationFormat::q8_32:
      kernels(isa).quantize_q8_32(x, count, row + begin / kStep * sizeof(ActivationStep32));
      break;
    case ActivationFormat::q8_256:
    case ActivationFormat::q8_256_by16:
    case ActivationFormat::q8_256_by32:
      kernels(isa).quantize_q8_256[static_cast<int>(order_of(format))](
          x, count, row + begin / kStep * sizeof(ActivationStep256));
      break;
    case ActivationFormat::q8_256_fast:
      for (std::int64_t c = begin; c < end; c += kStep, x += kStep) {
        auto* ends = reinterpret_cast<ByteStep*>(row + activation_row_bytes(format, columns));
        kernels(isa).quantize_q8_256_fast(x, end - c, reinterpret_cast<std::int8_t*>(row + c),
                                          ends[-1 - c / kStep]);
      }
      break;
  }
}

void pack_activations(ActivationFormat format, const float* x, std::int64_t ldx, std::int64_t begin,
                      std::int64_t end, std::int64_t columns, std::byte* out, Isa isa) {
  const std::size_t stride = activation_row_bytes(format, columns);
  for (std::int64_t i = begin; i < end; ++i) {
    pack_columns(format, x + i * ldx, 0, columns, columns, out + static_cast<std::size_t>(i) * stride, isa);
  }
}

int product_pass_rows() { return kernels().pass_rows; }

PackedMatrix::PackedMatrix(Format format, std::int64_t rows, std::int64_t columns, float scale, bool coded)
    : format_(format),
      rows_(rows),
      columns_(columns),
      scale_(scale),
      coded_(coded && is_coded(format, columns)),
      panel_bytes_((coded_ ? coded_layout(columns) : panel_layout(format, columns)).bytes),
      bytes_(static_cast<std::size_t>(panels()) * panel_bytes_),
      data_(allocate_weights(bytes_)) {}

bool PackedMatrix::pack(const std::byte* rows, std::int64_t panel_begin, std::int64_t panel_end) {
  const std::size_t stride = row_bytes(format_, columns_);
  std::vector<std::byte> zeros;
  for (std::int64_t p = panel_begin; p < panel_end; ++p) {
    const std::byte* sources[kPanel];
    for (std::int64_t r = 0; r < kPanel; ++r) {
      const std::int64_t row = p * kPanel + r;
      if (row >= rows_ && zeros.empty()) zeros.resize(stride);
      sources[r] = row < rows_ ? rows + static_cast<std::size_t>(row) * stride : zeros.data();
    }
    std::byte* panel = data_.get() + static_cast<std::size_t>(p) * panel_bytes_;
    if (!coded_) {
      pack_panel(format_, sources, columns_, panel);
    } else if (!kernels().code_panel(sources, columns_, panel)) {
      return false;
    }
  }
  return true;
}

void PackedMatrix::multiply(ActivationFormat activation, const std::byte* activations, std::int64_t m,
                            std::int64_t panel_begin, std::int64_t panel_end, float* y,
                            std::int64_t ldy) const {
  if (m == 0) return;
  const PanelLayout layout = coded_ ? coded_layout(columns_) : panel_layout(format_, columns_);
  const Panels panels = {data_.get(), layout, rows_, columns_, scale_};
  const std::size_t stride = activation_row_bytes(activation, columns_);
  const auto product = coded_ ? kernels().multiply_coded : product_kernel(format_, activation);
  product(panels, activations, stride, m, panel_begin, panel_end, y, ldy);
}

}  // namespace trivet
