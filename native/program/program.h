// A model compiled into a list of steps over preallocated memory, executed for a whole batch at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "attention/cache.h"
#include "program/attend.h"
#include "program/feed_forward.h"
#include "program/linear.h"
#include "program/moe.h"
#include "program/step.h"
#include "threads/team.h"

namespace trivet {

// Where a value of the graph is kept: `width` columns of a buffer that other values use before and after;
// buffer -1 for a value that no operation reads.
struct Slot {
  std::int64_t buffer, width;
};

// Built by appending the operations of trivet/graph/ops.py in order, one method each; values are indices into
// `slots`. Everything is checked as it is appended: std::invalid_argument tells what does not fit.
class Program {
 public:
  // `cache_layers` holds (kv_heads, head_dim).
  Program(int threads, const std::vector<Slot>& slots, CacheTypes cache_types,
          const std::vector<std::pair<int, int>>& cache_layers, Numerics numerics);

  // Repacks `count` matrices [rows, columns] whose GGUF rows start `stride` bytes apart; returns their index.
  // `mapped`: they are a file's, of whose pages in memory the system gets back those that have been read.
  int add_matrices(Format format, std::int64_t count, std::int64_t rows, std::int64_t columns,
                   const std::byte* data, std::int64_t stride, const std::vector<float>& scales, bool mapped);
  int add_rotary(std::vector<double> inv_freq, bool interleaved, double magnitude);

  // Takes the rows that a run is given, of a graph whose operations before were cut off; it comes first.
  void input(int output);
  // `table` holds `rows` GGUF rows and is kept by `owner`. Where the descriptor of a `file` is given, which
  // has them at `offset`, too, rows are read from there: a look at a mapped table would by and by bring all
  // of it into this process's memory.
  void embed(int output, Format format, std::int64_t rows, const std::byte* table,
             std::shared_ptr<const void> owner, float scale, int file, std::int64_t offset);
  void rms_norm(int input, int output, std::vector<float> weight, float eps, std::int64_t group);
  void add_rms_norm(int a, int b, int sum, int output, std::vector<float> weight, float eps);
  struct LinearOutput {
    int value, matrix;
    std::vector<float> bias;  // empty for none
  };
  void linear(int input, std::vector<LinearOutput> outputs);
  void rope(int input, int output, int rotary, std::int64_t head_dim);
  void attention(int q, int k, int v, int output, int layer, int heads, float scale, std::int64_t window,
                 float softcap, std::vector<float> sinks);
  void act_mul(int gate, int up, int output, Activation act);
  struct BiasedMatrix {
    int matrix;
    std::vector<float> bias;  // empty for none
  };
  void feed_forward(int input, int output, BiasedMatrix gate, BiasedMatrix up, BiasedMatrix down,
                    Activation act);
  void add(int a, int b, int output);
  void scale(int input, int output, float factor);
  void moe(int input, int output, int router, int gate, int up, int down, int top_k, Activation act,
           bool normalize, float scale);
  void select(int input, int output);
  // One of these two makes what a run returns: of the graph's end, or of a graph whose operations after were
  // cut off.
  void logits(int input, int matrix, float softcap, float scale);
  void output(int input);

  // Executes the program for one batch: [rows][width] float32, overwritten by the next run: a row of logits
  // for each of the outputs, or a row of a value for each of the tokens. Throws std::invalid_argument for a
  // batch that Batch::check refuses, std::runtime_error when another run is under way.
  std::shared_ptr<const float> run(const Batch& batch);

  // Calls f(member, index) for each index below `count` on `members` of its threads, which must not be more
  // than threads(). Throws what f throws, and std::runtime_error when a run is under way.
  void for_each(std::int64_t count, int members,
                const std::function<void(int member, std::int64_t index)>& f);

  // Throws std::bad_alloc.
  void allocate_cache(std::int64_t blocks, std::int64_t block_size);

  const KvCache& cache() const { return cache_; }
  KvCache& cache() { return cache_; }
  int threads() const { return team_.size(); }
  // Of the rows that a run returns, and of those that it is given (0: none).
  std::int64_t result_width() const { return result_ ? result_->stride() : 0; }
  Rows result_rows() const { return result_rows_; }
  std::int64_t hidden_width() const { return hidden_width_; }
  std::size_t weight_bytes() const { return weight_bytes_; }

  // Columns of a value.
  std::int64_t width(int value) const;

  // Names of the steps; "|" stands for a barrier.
  std::vector<std::string> listing() const;

 private:
  struct Value {
    Buffer* buffer;
    std::int64_t width;
    bool defined = false;
    Rows rows = Rows::tokens;
    bool product = false;  // of two values

    Inputs inputs() const { return product ? Inputs::wide : inputs_of(width); }
  };
  struct Instruction {
    std::unique_ptr<Step> step;
    bool barrier;  // before it
  };
  struct Rotary {
    std::vector<double> inv_freq;
    bool interleaved;
    Buffer table;
  };

  const Value& read(int value) const;
  Value& write(int value, std::int64_t width, Rows rows);
  const std::vector<PackedMatrix>& experts(int index, int count, std::int64_t rows,
                                           std::int64_t columns) const;
  const PackedMatrix& matrix(int index, std::int64_t rows, std::int64_t columns) const;
  std::vector<std::int64_t> pack(std::vector<PackedMatrix>& stack, const std::vector<std::int64_t>& indices,
                                 const std::byte* data, std::int64_t stride, bool mapped);
  void execute(const Batch& batch, Worker worker);
  int useful_members(const Batch& batch) const;
  std::unique_lock<std::mutex> exclusive();
  PackedRows& packed(std::int64_t columns);
  GatedScratch& gated(std::int64_t hidden);
  AttentionSchedule& schedule(const AttentionShape& shape);
  void append(std::unique_ptr<Step> step);
  void append_rows(std::string name, const std::vector<const Value*>& inputs,
                   const std::vector<const Value*>& outputs, RowStep::Body body);
  void append_linear(std::string name, const Value& input, std::vector<Projection> projections, Inputs inputs,
                     float scale = 1.0f, float softcap = 0.0f);

  ThreadTeam team_;
  KvCache cache_;
  Numerics numerics_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<std::vector<PackedMatrix>>> matrices_;
  std::vector<std::unique_ptr<Rotary>> rotaries_;
  std::vector<std::unique_ptr<PackedRows>> packed_;
  std::vector<std::unique_ptr<AttentionSchedule>> schedules_;
  std::vector<std::unique_ptr<GatedScratch>> gated_scratch_;
  std::vector<std::unique_ptr<MoeScratch>> moe_scratch_;
  std::unique_ptr<Buffer> result_;
  Rows result_rows_ = Rows::outputs;
  std::int64_t hidden_width_ = 0;
  std::vector<Instruction> instructions_;
  std::vector<Access> since_barrier_;
  std::int64_t vocabulary_ = 0;
  std::size_t weight_bytes_ = 0;
  bool complete_ = false;  // nothing is appended once it ran
  std::mutex busy_;
};

}  // namespace trivet
