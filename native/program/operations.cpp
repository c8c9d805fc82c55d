// How each operation of a graph becomes steps of a program.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "ops/rows.h"
#include "pages.h"
#include "program/program.h"

namespace trivet {
namespace {

void need(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
}

std::string number(std::int64_t n) { return std::to_string(n); }

// Of matrices that are packed. To give pages back interrupts all threads, so it is done for many at once.
constexpr std::int64_t kLeastPanelsPerClaim = 8, kMostPanelsPerClaim = 64;

// Of a file; `mapped`, which are the same bytes, if they cannot be read.
const std::byte* read_bytes(int file, std::int64_t offset, std::size_t bytes, const std::byte* mapped) {
  thread_local std::vector<std::byte> buffer;
  if (buffer.size() < bytes) buffer.resize(bytes);
  const ssize_t count = pread(file, buffer.data(), bytes, offset);
  return count == static_cast<ssize_t>(bytes) ? buffer.data() : mapped;
}

}  // namespace

int Program::add_matrices(Format format, std::int64_t count, std::int64_t rows, std::int64_t columns,
                          const std::byte* data, std::int64_t stride, const std::vector<float>& scales,
                          bool mapped) {
  need(count >= 1 && rows >= 1 && columns >= 1, "a matrix needs rows and columns, got " + number(count) +
                                                    " of " + number(rows) + " by " + number(columns));
  need(scales.empty() || static_cast<std::int64_t>(scales.size()) == count,
       number(count) + " matrices need as many scales, got " + number(scales.size()));
  const std::unique_lock lock = exclusive();
  auto& stack = *matrices_.emplace_back(std::make_unique<std::vector<PackedMatrix>>());
  stack.reserve(count);
  const auto matrix = [&](std::int64_t i, bool coded) {
    return PackedMatrix(format, rows, columns, scales.empty() ? 1.0f : scales[i], coded);
  };
  for (std::int64_t i = 0; i < count; ++i) stack.push_back(matrix(i, true));
  std::vector<std::int64_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  const auto plain = pack(stack, indices, data, stride, mapped);
  for (const std::int64_t i : plain) stack[i] = matrix(i, false);
  if (!plain.empty()) pack(stack, plain, data, stride, mapped);
  for (const PackedMatrix& packed : stack) weight_bytes_ += packed.bytes();
  return static_cast<int>(matrices_.size()) - 1;
}

// Those of the matrices `indices` that cannot be coded.
std::vector<std::int64_t> Program::pack(std::vector<PackedMatrix>& stack,
                                        const std::vector<std::int64_t>& indices, const std::byte* data,
                                        std::int64_t stride, bool mapped) {
  const std::int64_t panels = stack.front().panels(), rows = stack.front().rows();
  const auto row = static_cast<std::int64_t>(row_bytes(stack.front().format(), stack.front().columns()));
  const std::int64_t claim = std::clamp(panels / (4 * threads()), kLeastPanelsPerClaim, kMostPanelsPerClaim);
  const std::int64_t claims_per_matrix = (panels + claim - 1) / claim;
  const std::int64_t all = static_cast<std::int64_t>(indices.size()) * claims_per_matrix;
  Claims claims;
  std::vector<std::atomic<bool>> failed(indices.size());
  team_.run(threads(), [&](int) {
    for (std::int64_t i = claims.next(); i < all; i = claims.next()) {
      const std::int64_t n = i / claims_per_matrix, panel = i % claims_per_matrix * claim;
      if (failed[n]) continue;
      const std::int64_t end = std::min(panel + claim, panels);
      const std::byte* matrix = data + indices[n] * stride;
      if (!stack[indices[n]].pack(matrix, panel, end)) failed[n] = true;
      if (!mapped) continue;
      release_mapped_pages(matrix + panel * PackedMatrix::kPanel * row,
                           matrix + std::min(end * PackedMatrix::kPanel, rows) * row);
    }
  });
  std::vector<std::int64_t> left;
  for (std::size_t n = 0; n < indices.size(); ++n) {
    if (failed[n]) left.push_back(indices[n]);
  }
  return left;
}

int Program::add_rotary(std::vector<double> inv_freq, bool interleaved, double magnitude) {
  need(!inv_freq.empty(), "a rotary embedding needs at least one frequency");
  const std::int64_t pairs = static_cast<std::int64_t>(inv_freq.size());
  auto& rotary = *rotaries_.emplace_back(std::make_unique<Rotary>(
      Rotary{std::move(inv_freq), interleaved, Buffer(rotary_width(pairs, interleaved))}));
  append(std::make_unique<RowStep>(
      "rotary", Rows::tokens, std::vector{writes(&rotary.table, Division::tokens)},
      [&rotary, pairs, magnitude](const Batch& batch, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          rotary_row(batch.positions[i], rotary.inv_freq.data(), pairs, rotary.interleaved, magnitude,
                     rotary.table.row(i));
        }
      }));
  return static_cast<int>(rotaries_.size()) - 1;
}

void Program::embed(int output_value, Format format, std::int64_t rows, const std::byte* table,
                    std::shared_ptr<const void> owner, float scale, int file, std::int64_t offset) {
  need(rows >= 1, "the embedding table is empty");
  const Value& y = write(output_value, width(output_value), Rows::tokens);
  vocabulary_ = vocabulary_ == 0 ? rows : std::min(vocabulary_, rows);
  append_rows("embed", {}, {&y},
              [&buffer = *y.buffer, width = y.width, format, table, owner = std::move(owner), scale, file,
               offset](const Batch& batch, std::int64_t begin, std::int64_t end) {
                const std::size_t stride = row_bytes(format, width);
                for (std::int64_t i = begin; i < end; ++i) {
                  const std::int64_t at = batch.token_ids[i] * static_cast<std::int64_t>(stride);
                  const std::byte* row = table + at;
                  if (file >= 0) row = read_bytes(file, offset + at, stride, row);
                  dequantize(format, row, width, buffer.row(i));
                  if (scale != 1.0f) row_kernels().scale(buffer.row(i), scale, width, buffer.row(i));
                }
              });
}

void Program::rms_norm(int input_value, int output_value, std::vector<float> weight, float eps,
                       std::int64_t group) {
  const Value& x = read(input_value);
  const std::int64_t size = group == 0 ? x.width : group;
  need(size > 0 && x.width % size == 0,
       "rms_norm: " + number(x.width) + " columns are not groups of " + number(group));
  need(static_cast<std::int64_t>(weight.size()) == size,
       "rms_norm: got " + number(weight.size()) + " weights for " + number(size) + " columns");
  const Value& y = write(output_value, x.width, x.rows);
  append_rows("rms_norm", {&x}, {&y},
              [&x = *x.buffer, &y = *y.buffer, width = x.width, size, weight = std::move(weight), eps](
                  const Batch&, std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                  row_kernels().rms_norm(x.row(i), weight.data(), eps, width, size, y.row(i));
                }
              });
}

void Program::add_rms_norm(int a_value, int b_value, int sum_value, int output_value,
                           std::vector<float> weight, float eps) {
  add(a_value, b_value, sum_value);
  rms_norm(sum_value, output_value, std::move(weight), eps, 0);
}

void Program::linear(int input_value, std::vector<LinearOutput> outputs) {
  const Value x = read(input_value);
  need(!outputs.empty(), "linear: there are no matrices");
  std::vector<Projection> projections;
  for (LinearOutput& out : outputs) {
    const Value& y = write(out.value, width(out.value), x.rows);
    const PackedMatrix& w = matrix(out.matrix, y.width, x.width);
    need(out.bias.empty() || static_cast<std::int64_t>(out.bias.size()) == y.width,
         "linear: got " + number(out.bias.size()) + " biases for " + number(y.width) + " columns");
    for (const Projection& p : projections) need(p.output != y.buffer, "linear: two outputs share a buffer");
    projections.push_back({&w, y.buffer, std::move(out.bias)});
  }
  append_linear("linear", x, std::move(projections), x.inputs());
}

void Program::rope(int input_value, int output_value, int rotary_index, std::int64_t head_dim) {
  const Value& x = read(input_value);
  need(rotary_index >= 0 && rotary_index < static_cast<int>(rotaries_.size()),
       "rope: there is no rotary embedding " + number(rotary_index));
  const Rotary& rotary = *rotaries_[rotary_index];
  const std::int64_t pairs = static_cast<std::int64_t>(rotary.inv_freq.size());
  need(head_dim > 0 && x.width % head_dim == 0 && 2 * pairs <= head_dim,
       "rope: cannot rotate " + number(2 * pairs) + " of " + number(head_dim) + " columns a head in " +
           number(x.width) + " columns");
  need(x.rows == Rows::tokens, "rope: must come before select");
  const Value& y = write(output_value, x.width, x.rows);
  append(std::make_unique<RowStep>(
      "rope", x.rows,
      std::vector{reads(x.buffer, Division::tokens), reads(&rotary.table, Division::tokens),
                  writes(y.buffer, Division::tokens)},
      [&x = *x.buffer, &y = *y.buffer, heads = x.width / head_dim, head_dim, pairs, &rotary](
          const Batch&, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          row_kernels().rope(x.row(i), rotary.table.row(i), heads, head_dim, pairs, rotary.interleaved,
                             y.row(i));
        }
      }));
}

void Program::attention(int q_value, int k_value, int v_value, int output_value, int layer, int heads,
                        float scale, std::int64_t window, float softcap, std::vector<float> sinks) {
  const Value &q = read(q_value), &k = read(k_value), &v = read(v_value);
  need(layer >= 0 && layer < static_cast<int>(cache_.layers().size()),
       "attention: the cache has no layer " + number(layer));
  const CacheLayer& cached = cache_.layers()[layer];
  const std::int64_t kv_width = std::int64_t{cached.kv_heads} * cached.head_dim;
  need(heads >= 1 && heads % cached.kv_heads == 0 && heads <= 1 << 16,
       "attention: " + number(heads) + " heads cannot share " + number(cached.kv_heads) + " KV heads");
  need(q.width == std::int64_t{heads} * cached.head_dim && k.width == kv_width && v.width == kv_width,
       "attention: q, k and v have " + number(q.width) + ", " + number(k.width) + " and " + number(v.width) +
           " columns, need " + number(std::int64_t{heads} * cached.head_dim) + ", " + number(kv_width) +
           " twice");
  need(sinks.empty() || static_cast<int>(sinks.size()) == heads,
       "attention: got " + number(sinks.size()) + " sinks for " + number(heads) + " heads");
  need(window >= 0 && std::isfinite(scale) && std::isfinite(softcap) && softcap >= 0,
       "attention: a setting is invalid");
  for (const Value* value : {&q, &k, &v})
    need(value->rows == Rows::tokens, "attention: must come before select");

  const AttentionShape shape = {heads,
                                cached.kv_heads,
                                cached.head_dim,
                                scale,
                                static_cast<int>(std::min<std::int64_t>(window, INT32_MAX)),
                                softcap};
  const Buffer &queries = *q.buffer, &keys = *k.buffer, &values = *v.buffer;
  const Value& y = write(output_value, q.width, Rows::tokens);
  append(store_step(cache_, layer, keys, values));
  append(std::make_unique<AttendStep>(schedule(shape), cache_, layer, queries, *y.buffer, std::move(sinks)));
}

void Program::act_mul(int gate_value, int up_value, int output_value, Activation act) {
  const Value &gate = read(gate_value), &up = read(up_value);
  need(gate.width == up.width && gate.rows == up.rows, "act_mul: gate and up differ in shape");
  Value& y = write(output_value, gate.width, gate.rows);
  y.product = true;
  append_rows("act_mul", {&gate, &up}, {&y},
              [&gate = *gate.buffer, &up = *up.buffer, &y = *y.buffer, width = y.width, act](
                  const Batch&, std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i) {
                  row_kernels().act_mul(act, gate.row(i), up.row(i), width, y.row(i));
                }
              });
}

void Program::feed_forward(int input_value, int output_value, BiasedMatrix gate, BiasedMatrix up,
                           BiasedMatrix down, Activation act) {
  const Value x = read(input_value);
  need(gate.matrix >= 0 && gate.matrix < static_cast<int>(matrices_.size()),
       "feed_forward: there is no matrix " + number(gate.matrix));
  const std::int64_t hidden = matrices_[gate.matrix]->front().rows(), width = this->width(output_value);
  const PackedMatrix &g = matrix(gate.matrix, hidden, x.width), &u = matrix(up.matrix, hidden, x.width),
                     &d = matrix(down.matrix, width, hidden);
  for (const auto& [part, columns] : {std::pair{&gate, hidden}, {&up, hidden}, {&down, width}}) {
    need(part->bias.empty() || static_cast<std::int64_t>(part->bias.size()) == columns,
         "feed_forward: got " + number(part->bias.size()) + " biases for " + number(columns) + " columns");
  }
  const Value& y = write(output_value, width, x.rows);
  const Inputs inputs = x.inputs();
  PackedRows& rows = packed(x.width);
  GatedScratch& scratch = gated(hidden);
  append(pack_step(*x.buffer, x.rows, rows, {g.format(), u.format()}, numerics_, inputs));
  append(std::make_unique<GatedStep>(
      x.rows, rows, GatedWeights{{&g, std::move(gate.bias)}, {&u, std::move(up.bias)}, act, d.format()},
      scratch, numerics_, inputs));
  append(std::make_unique<LinearStep>("feed_forward.down", x.rows, scratch.output,
                                      std::vector<Projection>{{&d, y.buffer, std::move(down.bias)}},
                                      numerics_, Inputs::wide));
}

void Program::add(int a_value, int b_value, int output_value) {
  const Value &a = read(a_value), &b = read(b_value);
  need(a.width == b.width && a.rows == b.rows, "add: the operands differ in shape");
  const Value& y = write(output_value, a.width, a.rows);
  append_rows("add", {&a, &b}, {&y},
              [&a = *a.buffer, &b = *b.buffer, &y = *y.buffer, width = y.width](
                  const Batch&, std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i)
                  row_kernels().add(a.row(i), b.row(i), width, y.row(i));
              });
}

void Program::scale(int input_value, int output_value, float factor) {
  const Value& x = read(input_value);
  const Value& y = write(output_value, x.width, x.rows);
  append_rows("scale", {&x}, {&y},
              [&x = *x.buffer, &y = *y.buffer, width = y.width, factor](const Batch&, std::int64_t begin,
                                                                        std::int64_t end) {
                for (std::int64_t i = begin; i < end; ++i)
                  row_kernels().scale(x.row(i), factor, width, y.row(i));
              });
}

void Program::moe(int input_value, int output_value, int router, int gate, int up, int down, int top_k,
                  Activation act, bool normalize, float scale) {
  const Value x = read(input_value);
  need(router >= 0 && router < static_cast<int>(matrices_.size()),
       "moe: there is no matrix " + number(router));
  const int count = static_cast<int>(matrices_[router]->front().rows());
  need(top_k >= 1 && top_k <= count,
       "moe: cannot choose " + number(top_k) + " of " + number(count) + " experts");
  need(gate >= 0 && gate < static_cast<int>(matrices_.size()), "moe: there is no matrix " + number(gate));
  const std::int64_t hidden = matrices_[gate]->front().rows();
  const MoeShape shape = {x.width, hidden, count, top_k, act, normalize, scale};
  const MoeWeights weights = {&matrix(router, count, x.width), &experts(gate, count, hidden, x.width),
                              &experts(up, count, hidden, x.width), &experts(down, count, x.width, hidden)};
  const Value& y = write(output_value, x.width, x.rows);
  auto scratch =
      std::find_if(moe_scratch_.begin(), moe_scratch_.end(), [&](const auto& s) { return s->fits(shape); });
  if (scratch == moe_scratch_.end()) {
    scratch = moe_scratch_.insert(scratch, std::make_unique<MoeScratch>(shape));
  }
  for (auto& step : moe_steps(shape, weights, **scratch, *x.buffer, *y.buffer, x.rows, numerics_))
    append(std::move(step));
}

void Program::select(int input_value, int output_value) {
  const Value& x = read(input_value);
  need(x.rows == Rows::tokens, "select: the rows are selected already");
  const Buffer& from = *x.buffer;
  const Value& y = write(output_value, x.width, Rows::outputs);
  need(y.buffer != &from, "select: input and output share a buffer");
  append(std::make_unique<RowStep>(
      "select", Rows::outputs,
      std::vector{reads(&from, Division::anywhere), writes(y.buffer, Division::outputs)},
      [&from, &to = *y.buffer, width = y.width](const Batch& batch, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          std::copy_n(from.row(batch.output_rows[i]), width, to.row(i));
      }));
}

void Program::logits(int input_value, int matrix_index, float softcap, float scale) {
  const Value& x = read(input_value);
  need(x.rows == Rows::outputs, "logits: must come after select");
  need(!result_, "logits: the program has its result already");
  need(std::isfinite(softcap) && softcap >= 0, "logits: softcap must be 0 or greater");
  need(matrix_index >= 0 && matrix_index < static_cast<int>(matrices_.size()),
       "logits: there is no matrix " + number(matrix_index));
  const PackedMatrix& head = matrix(matrix_index, matrices_[matrix_index]->front().rows(), x.width);
  result_ = std::make_unique<Buffer>(head.rows());
  append_linear("logits", x, {{&head, result_.get(), {}}}, Inputs::last, scale, softcap);
}

void Program::input(int output_value) {
  need(hidden_width_ == 0, "input: there is one already");
  hidden_width_ = width(output_value);
  const Value& y = write(output_value, hidden_width_, Rows::tokens);
  append_rows(
      "input", {}, {&y},
      [&to = *y.buffer, width = hidden_width_](const Batch& batch, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) std::copy_n(batch.hidden + i * width, width, to.row(i));
      });
}

void Program::output(int input_value) {
  const Value& x = read(input_value);
  need(x.rows == Rows::tokens, "output: must come before select");
  need(!result_, "output: the program has its result already");
  result_ = std::make_unique<Buffer>(x.width);
  result_rows_ = Rows::tokens;
  append(std::make_unique<RowStep>(
      "output", Rows::tokens,
      std::vector{reads(x.buffer, Division::tokens), writes(result_.get(), Division::tokens)},
      [&from = *x.buffer, &to = *result_, width = x.width](const Batch&, std::int64_t begin,
                                                           std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) std::copy_n(from.row(i), width, to.row(i));
      }));
}

const Program::Value& Program::read(int value) const {
  need(value >= 0 && value < static_cast<int>(values_.size()), "there is no value " + number(value));
  need(values_[value].defined, "value " + number(value) + " is read before it is written");
  return values_[value];
}

std::int64_t Program::width(int value) const {
  need(value >= 0 && value < static_cast<int>(values_.size()), "there is no value " + number(value));
  return values_[value].width;
}

Program::Value& Program::write(int value, std::int64_t width, Rows rows) {
  need(this->width(value) == width, "value " + number(value) + " has " + number(this->width(value)) +
                                        " columns, the operation gives it " + number(width));
  Value& result = values_[value];
  need(result.buffer != nullptr, "value " + number(value) + " has no buffer");
  need(!result.defined, "value " + number(value) + " is written twice");
  for (Value& other : values_) {
    if (other.buffer == result.buffer) other.defined = false;
  }
  result.defined = true;
  result.rows = rows;
  return result;
}

const PackedMatrix& Program::matrix(int index, std::int64_t rows, std::int64_t columns) const {
  return experts(index, 1, rows, columns).front();
}

const std::vector<PackedMatrix>& Program::experts(int index, int count, std::int64_t rows,
                                                  std::int64_t columns) const {
  need(index >= 0 && index < static_cast<int>(matrices_.size()), "there is no matrix " + number(index));
  const std::vector<PackedMatrix>& stack = *matrices_[index];
  need(static_cast<int>(stack.size()) == count && stack.front().rows() == rows &&
           stack.front().columns() == columns,
       "matrix " + number(index) + " is " + number(stack.size()) + " of " + number(stack.front().rows()) +
           " by " + number(stack.front().columns()) + ", need " + number(count) + " of " + number(rows) +
           " by " + number(columns));
  return stack;
}

}  // namespace trivet
