// Python's view of formats and matrix products, for tests, benchmarks and `trivet inspect --system`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gemm/matrix.h"
#include "gemm/memory.h"
#include "isa.h"
#include "trial.h"

namespace nb = nanobind;

namespace trivet {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// On a cache line, as a program's buffers are.
using Floats = std::unique_ptr<float[], void (*)(void*)>;

Floats allocate_floats(std::size_t count) {
  const std::size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  Floats floats(static_cast<float*>(std::aligned_alloc(64, std::max<std::size_t>(bytes, 64))), std::free);
  if (!floats) throw std::bad_alloc();
  return floats;
}

template <std::size_t N>
nb::ndarray<nb::numpy, float> to_numpy(Floats data, const std::size_t (&shape)[N]) {
  float* values = data.release();
  nb::capsule owner(values, [](void* p) noexcept { std::free(p); });
  return {values, N, shape, owner};
}

void check_size(Format format, std::int64_t rows, std::int64_t columns, std::size_t bytes) {
  const FormatInfo& info = *format_info(format);
  const std::string name = info.name;
  if (rows < 0 || columns < 0 || columns % info.block_size != 0) {
    throw std::invalid_argument(std::to_string(rows) + " rows of " + std::to_string(columns) +
                                " columns are not whole " + name + " blocks of " +
                                std::to_string(info.block_size));
  }
  const std::size_t row = row_bytes(format, columns);
  if (row == 0 ? bytes != 0 : bytes % row != 0 || bytes / row != static_cast<std::size_t>(rows)) {
    throw std::invalid_argument("got " + std::to_string(bytes) + " bytes for " + std::to_string(rows) +
                                " rows of " + std::to_string(row) + " bytes (" + name + ")");
  }
}

// Calls work(begin, end) on `threads` parts of [0, count).
template <class Work>
void split(std::int64_t count, int threads, Work work) {
  std::vector<std::jthread> team;
  for (int t = 1; t < threads; ++t) team.emplace_back(work, count * t / threads, count * (t + 1) / threads);
  work(0, count / threads);
}

nb::ndarray<nb::numpy, float> dequantize_array(int type_id, Bytes blocks, std::int64_t count) {
  const Format format = computing_format(type_id);
  check_size(format, 1, count, blocks.size());
  Floats out = allocate_floats(static_cast<std::size_t>(count));
  {
    nb::gil_scoped_release release;
    dequantize(format, reinterpret_cast<const std::byte*>(blocks.data()), count, out.get());
  }
  return to_numpy(std::move(out), {static_cast<std::size_t>(count)});
}

PackedMatrix pack_matrix(int type_id, Bytes data, std::int64_t rows, std::int64_t columns) {
  const Format format = computing_format(type_id);
  check_size(format, rows, columns, data.size());
  nb::gil_scoped_release release;
  const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
  PackedMatrix matrix(format, rows, columns);
  if (matrix.pack(bytes, 0, matrix.panels())) return matrix;
  PackedMatrix plain(format, rows, columns, 1.0f, false);
  return plain.pack(bytes, 0, plain.panels()) ? std::move(plain) : throw std::logic_error("not packed");
}

nb::ndarray<nb::numpy, float> multiply(const PackedMatrix& w, Matrix x, int threads,
                                       const std::string& numerics, const std::string& inputs) {
  const std::size_t m = x.shape(0), rows = static_cast<std::size_t>(w.rows());
  if (static_cast<std::int64_t>(x.shape(1)) != w.columns() || threads < 1) {
    throw std::invalid_argument("x has " + std::to_string(x.shape(1)) + " columns, the matrix " +
                                std::to_string(w.columns()) + "; threads is " + std::to_string(threads) +
                                " and must be at least 1");
  }
  const Numerics kind = numerics_of(numerics);
  const Inputs role = inputs_named(inputs);
  Floats y = allocate_floats(m * rows);
  {
    nb::gil_scoped_release release;
    const ActivationFormat format = activation_format(w.format(), kind, static_cast<std::int64_t>(m), role);
    const std::size_t row = activation_row_bytes(format, w.columns());
    // A multiple of 64 bytes, so that every row starts on a cache line.
    std::unique_ptr<std::byte[], void (*)(void*)> packed(
        static_cast<std::byte*>(std::aligned_alloc(64, std::max<std::size_t>(m * row, 64))), std::free);
    if (!packed) throw std::bad_alloc();
    const std::int64_t count = static_cast<std::int64_t>(m);
    pack_activations(format, x.data(), w.columns(), 0, count, w.columns(), packed.get());
    split(w.panels(), threads, [&](std::int64_t begin, std::int64_t end) {
      w.multiply(format, packed.get(), count, begin, end, y.get(), w.rows());
    });
  }
  return to_numpy(std::move(y), {m, rows});
}

const char* activation_format_name(int type_id, const std::string& numerics, std::int64_t rows) {
  constexpr const char* kNames[] = {"f32",         "bf16",        "q8_32",      "q8_256",
                                    "q8_256_by16", "q8_256_by32", "q8_256_fast"};
  static_assert(std::size(kNames) == kActivationFormats);
  const Format format = computing_format(type_id);
  return kNames[static_cast<int>(activation_format(format, numerics_of(numerics), rows, Inputs::usual))];
}

Isa available_isa(const std::string& name) {
  for (Isa isa : available_isas()) {
    if (isa_name(isa) == name) return isa;
  }
  throw std::invalid_argument("there is no instruction set " + name + " here");
}

std::vector<std::string> names(const std::vector<Isa>& isas) {
  std::vector<std::string> names;
  for (Isa isa : isas) names.emplace_back(isa_name(isa));
  return names;
}

nb::dict system_info() {
  nb::dict info;
  info["isa"] = isa_name(active_isa());
  info["available"] = names(available_isas());
  info["failed_trial"] = names(failed_isas());
  info["cores"] = std::max(1u, std::thread::hardware_concurrency());
#ifdef _SC_LEVEL1_DCACHE_SIZE
  info["l1_bytes"] = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  info["l2_bytes"] = sysconf(_SC_LEVEL2_CACHE_SIZE);
  info["l3_bytes"] = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  return info;
}

}  // namespace

void bind_gemm(nb::module_& m) {
  active_isa();  // a wrong TRIVET_ISA fails the import

  m.def("system_info", &system_info,
        "Instruction set in use (`isa`), `available` ones, those whose kernels did not pass their trial here "
        "(`failed_trial`), "
        "`cores`, "
        "cache sizes of a core in bytes where known.");
  m.def(
      "kernel_difference",
      [](const std::string& isa, const std::string& other) {
        return kernel_difference(available_isa(isa), available_isa(other));
      },
      nb::arg("isa"), nb::arg("other"),
      "How far all kernels of one available instruction set are from those of another, as a share of their "
      "results.");
  m.def(
      "expect_weights", [](std::size_t bytes) { expect_weights(bytes); }, nb::arg("bytes"),
      nb::call_guard<nb::gil_scoped_release>(),
      "Have a thread prepare memory for so many bytes of weights that are going to be loaded; 0 ends that, "
      "and "
      "what was not taken goes back.");
  m.def("dequantize", &dequantize_array, nb::arg("type_id"), nb::arg("blocks"), nb::arg("count"),
        "Exact float32 values [count] of GGUF blocks (uint8). ValueError when sizes or type do not fit.");
  m.def("activation_format", &activation_format_name, nb::arg("type_id"), nb::arg("numerics"),
        nb::arg("rows"),
        "In which of native/gemm/matrix.h's formats so many usual rows meet weights of a type. ValueError "
        "where it does not compute.");
  nb::class_<PackedMatrix>(m, "PackedMatrix", "A weight matrix [rows, columns] repacked for multiplication.")
      .def(
          "__init__",
          [](PackedMatrix* self, int type_id, Bytes data, std::int64_t rows, std::int64_t columns) {
            new (self) PackedMatrix(pack_matrix(type_id, data, rows, columns));
          },
          nb::arg("type_id"), nb::arg("data"), nb::arg("rows"), nb::arg("columns"))
      .def("multiply", &multiply, nb::arg("x"), nb::arg("threads") = 1, nb::arg("numerics") = "exact",
           nb::arg("inputs") = "usual",
           "x [m, columns] W^T -> float32 [m, rows]; `numerics` exact or fast, `inputs` usual, wide or last: "
           "see "
           "native/gemm/matrix.h.")
      .def_prop_ro("bytes", &PackedMatrix::bytes);
  m.def(
      "matmul",
      [](int type_id, Bytes data, std::int64_t rows, std::int64_t columns, Matrix x, int threads,
         const std::string& numerics) {
        return multiply(pack_matrix(type_id, data, rows, columns), x, threads, numerics, "usual");
      },
      nb::arg("type_id"), nb::arg("data"), nb::arg("rows"), nb::arg("columns"), nb::arg("x"),
      nb::arg("threads") = 1, nb::arg("numerics") = "exact",
      "x [m, columns] times the transpose of GGUF rows `data` (uint8) -> float32 [m, rows].");
}

}  // namespace trivet
