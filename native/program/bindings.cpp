// Python's view of compiled programs. Whatever crosses this border is checked here or in Program: no call
// from Python may crash the process.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "program/program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace trivet {
namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadOnlyBytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Table = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Hidden = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Stack = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu>;

std::vector<float> to_vector(const Floats& array) { return {array.data(), array.data() + array.size()}; }

template <class T>
T choice(const char* what, const std::string& name,
         std::initializer_list<std::pair<const char*, T>> choices) {
  std::string known;
  for (const auto& [key, value] : choices) {
    if (name == key) return value;
    known += (known.empty() ? "" : ", ") + std::string(key);
  }
  throw std::invalid_argument(std::string(what) + " must be one of " + known + ", got " + name);
}

CacheType cache_type(const std::string& name) {
  return choice<CacheType>("cache_dtype", name,
                           {{"f32", CacheType::f32},
                            {"f16", CacheType::f16},
                            {"bf16", CacheType::bf16},
                            {"q8_0", CacheType::q8_0}});
}

// One type for keys and values, or KEYS/VALUES.
CacheTypes cache_types(const std::string& name) {
  const std::size_t slash = name.find('/');
  if (slash == std::string::npos) return {cache_type(name), cache_type(name)};
  return {cache_type(name.substr(0, slash)), cache_type(name.substr(slash + 1))};
}

Activation activation(const std::string& name) {
  return choice<Activation>(
      "act", name,
      {{"silu", Activation::silu}, {"gelu_tanh", Activation::gelu_tanh}, {"gelu", Activation::gelu}});
}

Format check_row(int type_id, std::int64_t columns, std::size_t bytes) {
  const Format format = computing_format(type_id);
  const FormatInfo& info = *format_info(format);
  if (columns < 1 || columns % info.block_size != 0 || row_bytes(format, columns) != bytes) {
    throw std::invalid_argument(std::to_string(bytes) + " bytes are not a row of " + std::to_string(columns) +
                                " columns of " + info.name);
  }
  return format;
}

// An int32 array of the plan. -1 in `shape` takes any length.
const std::int32_t* plan_array(const char* name, const Array& array, std::vector<std::int64_t> shape) {
  bool ok = array.dtype() == nb::dtype<std::int32_t>() && array.ndim() == shape.size();
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); ok && i-- > 0;) {
    const std::int64_t size = static_cast<std::int64_t>(array.shape(i));
    ok = (shape[i] < 0 || size == shape[i]) &&
         (size <= 1 || array.size() == 0 || array.stride(i) == stride) && size <= INT32_MAX;
    stride *= size;
  }
  if (ok) return static_cast<const std::int32_t*>(array.data());
  std::string expected;
  for (const std::int64_t size : shape) {
    expected += (expected.empty() ? "" : ", ") + (size < 0 ? std::string("n") : std::to_string(size));
  }
  std::string got;
  for (std::size_t i = 0; i < array.ndim(); ++i) got += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
  throw std::invalid_argument(std::string(name) + " must be a C-contiguous int32 array [" + expected +
                              "], got " + std::to_string(array.dtype().bits) + "-bit [" + got + "]");
}

nb::ndarray<nb::numpy, float> run(Program& program, const Array& token_ids, const Array& positions,
                                  const Array& query_starts, const Array& context_lens,
                                  const Array& block_tables, const Array& logit_rows,
                                  const std::optional<Hidden>& hidden) {
  Batch batch = {};
  batch.token_ids = plan_array("token_ids", token_ids, {-1});
  batch.tokens = static_cast<std::int64_t>(token_ids.shape(0));
  batch.positions = plan_array("positions", positions, {batch.tokens});
  batch.context_lens = plan_array("context_lens", context_lens, {-1});
  batch.sequences = static_cast<std::int64_t>(context_lens.shape(0));
  batch.query_starts = plan_array("query_starts", query_starts, {batch.sequences + 1});
  batch.block_tables = plan_array("block_tables", block_tables, {batch.sequences, -1});
  batch.table_width = static_cast<std::int64_t>(block_tables.shape(1));
  batch.output_rows = plan_array("logit_rows", logit_rows, {-1});
  batch.outputs = static_cast<std::int64_t>(logit_rows.shape(0));
  const std::int64_t given = hidden ? static_cast<std::int64_t>(hidden->shape(1)) : 0;
  if (given != program.hidden_width() ||
      (hidden && static_cast<std::int64_t>(hidden->shape(0)) != batch.tokens)) {
    throw std::invalid_argument("hidden must have " + std::to_string(program.hidden_width()) +
                                " columns (0: be None) and a row for each token, got " +
                                std::to_string(given) + " columns");
  }
  if (hidden) batch.hidden = hidden->data();
  std::shared_ptr<const float> rows;
  {
    nb::gil_scoped_release release;
    rows = program.run(batch);
  }
  const std::size_t shape[] = {static_cast<std::size_t>(batch.rows(program.result_rows())),
                               static_cast<std::size_t>(program.result_width())};
  // Python may keep the array past the program's next growth, or its end.
  auto* kept = new std::shared_ptr<const float>(std::move(rows));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::shared_ptr<const float>*>(p); });
  return {const_cast<float*>(kept->get()), 2, shape, owner};
}

void embed(Program& program, int output, int type_id, Table table, float scale, int file,
           std::int64_t offset) {
  const Format format = check_row(type_id, program.width(output), table.shape(1));
  const auto* rows = reinterpret_cast<const std::byte*>(table.data());
  const auto count = static_cast<std::int64_t>(table.shape(0));
  program.embed(output, format, count, rows, std::make_shared<Table>(std::move(table)), scale, file, offset);
}

// The bytes that Python gives for one block of the cache.
template <class Bytes>
auto block_data(const KvCache& cache, const Bytes& bytes) {
  const std::int64_t expected = cache.block_bytes(cache.block_size());
  if (static_cast<std::int64_t>(bytes.size()) != expected) {
    throw std::invalid_argument("a block of the cache has " + std::to_string(expected) + " bytes, not " +
                                std::to_string(bytes.size()));
  }
  return bytes.data();
}

int add_matrices(Program& program, int type_id, std::int64_t columns, Stack data,
                 const std::optional<Floats>& scales, bool mapped) {
  const Format format = check_row(type_id, columns, data.shape(2));
  if (data.size() != 0 &&
      (data.stride(2) != 1 || data.stride(1) != static_cast<std::int64_t>(data.shape(2)))) {
    throw std::invalid_argument("the rows of a matrix must lie one after another");
  }
  const auto* rows = reinterpret_cast<const std::byte*>(data.data());
  const std::vector<float> factors = scales ? to_vector(*scales) : std::vector<float>();
  nb::gil_scoped_release release;
  return program.add_matrices(format, static_cast<std::int64_t>(data.shape(0)),
                              static_cast<std::int64_t>(data.shape(1)), columns, rows, data.stride(0),
                              factors, mapped);
}

void linear(Program& program, int input,
            const std::vector<std::tuple<int, int, std::optional<Floats>>>& outputs) {
  std::vector<Program::LinearOutput> parts;
  for (const auto& [value, matrix, bias] : outputs) {
    parts.push_back({value, matrix, bias ? to_vector(*bias) : std::vector<float>()});
  }
  program.linear(input, std::move(parts));
}

using BiasedMatrix = std::pair<int, std::optional<Floats>>;

Program::BiasedMatrix biased(const BiasedMatrix& part) {
  return {part.first, part.second ? to_vector(*part.second) : std::vector<float>()};
}

void feed_forward(Program& program, int input, int output, const BiasedMatrix& gate, const BiasedMatrix& up,
                  const BiasedMatrix& down, const std::string& act) {
  program.feed_forward(input, output, biased(gate), biased(up), biased(down), activation(act));
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Program>(m, "Program",
                      "A graph compiled into native steps, with its weights and its KV cache. Built by "
                      "calling the methods named\n"
                      "after the operations of trivet/graph/ops.py in the graph's order; values and matrices "
                      "are given by index.\n"
                      "ValueError tells what does not fit.")
      .def(
          "__init__",
          [](Program* self, int threads, const std::vector<std::pair<std::int64_t, std::int64_t>>& slots,
             const std::string& cache_dtype, const std::vector<std::pair<int, int>>& cache_layers,
             const std::string& numerics) {
            std::vector<Slot> converted;
            for (const auto& [buffer, width] : slots) converted.push_back({buffer, width});
            new (self)
                Program(threads, converted, cache_types(cache_dtype), cache_layers, numerics_of(numerics));
          },
          "threads"_a, "slots"_a, "cache_dtype"_a, "cache_layers"_a, "numerics"_a = "exact",
          "`slots`: (buffer or -1, columns) of each value. `cache_dtype`: for keys and values, or "
          "KEYS/VALUES.\n"
          "`cache_layers`: (KV heads, head_dim) of each. `numerics`: exact, or fast: see native/numerics.h.")
      .def("add_matrices", &add_matrices, "type_id"_a, "columns"_a, "data"_a, "scales"_a = nb::none(),
           "mapped"_a = false,
           "Repack matrices [count, rows, bytes per row] of a GGUF type, multiplied by `scales` [count]; "
           "returns their index. `mapped`: the pages of the file that they are a view of are given back.")
      .def("add_rotary", &Program::add_rotary, "inv_freq"_a, "interleaved"_a, "magnitude"_a)
      .def("input", &Program::input, "output"_a)
      .def("embed", &embed, "output"_a, "type_id"_a, "table"_a, "scale"_a, "file"_a = -1, "offset"_a = 0,
           "`table`: GGUF rows [vocabulary, bytes per row], kept and read in place, or from\n"
           "the descriptor of a `file`, which has them at `offset`, too.")
      .def(
          "rms_norm",
          [](Program& self, int x, int y, Floats weight, float eps, std::int64_t group) {
            self.rms_norm(x, y, to_vector(weight), eps, group);
          },
          "input"_a, "output"_a, "weight"_a, "eps"_a, "group"_a)
      .def(
          "add_rms_norm",
          [](Program& self, int a, int b, int sum, int y, Floats weight, float eps) {
            self.add_rms_norm(a, b, sum, y, to_vector(weight), eps);
          },
          "a"_a, "b"_a, "sum"_a, "output"_a, "weight"_a, "eps"_a)
      .def("linear", &linear, "input"_a, "outputs"_a, "`outputs`: (value, matrix, bias or None) of each.")
      .def("rope", &Program::rope, "input"_a, "output"_a, "rotary"_a, "head_dim"_a)
      .def(
          "attention",
          [](Program& self, int q, int k, int v, int y, int layer, int heads, float scale,
             std::int64_t window, float softcap, const std::optional<Floats>& sinks) {
            self.attention(q, k, v, y, layer, heads, scale, window, softcap,
                           sinks ? to_vector(*sinks) : std::vector<float>());
          },
          "q"_a, "k"_a, "v"_a, "output"_a, "layer"_a, "heads"_a, "scale"_a, "window"_a, "softcap"_a,
          "sinks"_a = nb::none())
      .def(
          "act_mul",
          [](Program& self, int gate, int up, int y, const std::string& act) {
            self.act_mul(gate, up, y, activation(act));
          },
          "gate"_a, "up"_a, "output"_a, "act"_a)
      .def("feed_forward", &feed_forward, "input"_a, "output"_a, "gate"_a, "up"_a, "down"_a, "act"_a,
           "`gate`, `up` and `down`: (matrix, bias or None).")
      .def("add", &Program::add, "a"_a, "b"_a, "output"_a)
      .def("scale", &Program::scale, "input"_a, "output"_a, "factor"_a)
      .def(
          "moe",
          [](Program& self, int x, int y, int router, int gate, int up, int down, int top_k,
             const std::string& act, bool normalize, float scale) {
            self.moe(x, y, router, gate, up, down, top_k, activation(act), normalize, scale);
          },
          "input"_a, "output"_a, "router"_a, "gate"_a, "up"_a, "down"_a, "top_k"_a, "act"_a, "normalize"_a,
          "scale"_a)
      .def("select", &Program::select, "input"_a, "output"_a)
      .def("logits", &Program::logits, "input"_a, "matrix"_a, "softcap"_a, "scale"_a)
      .def("output", &Program::output, "input"_a)
      .def(
          "cache_block_bytes",
          [](Program& self, std::int64_t block_size) { return self.cache().block_bytes(block_size); },
          "block_size"_a, "Bytes of one block of the cache over all layers.")
      .def("allocate_cache", &Program::allocate_cache, "blocks"_a, "block_size"_a,
           "MemoryError when the system has not enough.")
      .def(
          "read_block",
          [](const Program& self, std::int64_t block, const Bytes& out) {
            self.cache().read_block(block, reinterpret_cast<std::byte*>(block_data(self.cache(), out)));
          },
          "block"_a, "out"_a.noconvert(),
          "Copy a block of the cache to `out`, uint8 of its size. IndexError: no such block.")
      .def(
          "write_block",
          [](Program& self, std::int64_t block, const ReadOnlyBytes& data) {
            self.cache().write_block(block,
                                     reinterpret_cast<const std::byte*>(block_data(self.cache(), data)));
          },
          "block"_a, "data"_a, "Fill a block of the cache with what `read_block` gave.")
      .def("run", &run, "token_ids"_a, "positions"_a, "query_starts"_a, "context_lens"_a, "block_tables"_a,
           "logit_rows"_a, "hidden"_a = nb::none(),
           "Execute one step for the arrays of a StepPlan, which must not change meanwhile. `hidden` "
           "[tokens, columns] "
           "float32\nis what an input operation takes. Returns logits [logit rows, vocabulary], or what an "
           "output "
           "operation gives\n[tokens, columns], float32, overwritten by the next run.")
      .def_prop_ro("threads", &Program::threads)
      .def_prop_ro("weight_bytes", &Program::weight_bytes, "Bytes of the repacked matrices.")
      .def_prop_ro("listing", &Program::listing, "Names of the compiled steps; \"|\" is a barrier.");
}

}  // namespace trivet
