// What a compiled program is made of: steps, and the memory they read and write.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pages.h"
#include "program/batch.h"
#include "threads/team.h"

namespace trivet {

// Memory for rows of a fixed size that grows when a step brings more rows; what it held is lost then.
class RowMemory {
 public:
  explicit RowMemory(std::size_t row_bytes) : row_bytes_(row_bytes) {}

  void reserve(std::int64_t rows) {
    if (rows <= capacity_) return;
    const std::int64_t capacity = rows > 2 * capacity_ ? rows : 2 * capacity_;
    data_ = map_pages(capacity * row_bytes_);
    capacity_ = capacity;
  }

  std::byte* row(std::int64_t i) const { return data_.get() + i * row_bytes_; }
  std::size_t row_bytes() const { return row_bytes_; }
  const std::shared_ptr<std::byte>& data() const { return data_; }

 private:
  std::size_t row_bytes_;
  std::int64_t capacity_ = 0;
  std::shared_ptr<std::byte> data_;
};

// Floats from one row of so many to the next: rows start on cache lines, and lie so that many of them, in the
// same columns, do not compete for a cache's sets.
constexpr std::int64_t row_stride(std::int64_t width) { return ((width + 15) / 16 | 1) * 16; }

// Rows of float32.
class Buffer {
 public:
  explicit Buffer(std::int64_t stride) : stride_(stride), memory_(stride * sizeof(float)) {}

  float* row(std::int64_t i) const { return reinterpret_cast<float*>(memory_.row(i)); }
  std::int64_t stride() const { return stride_; }
  void reserve(std::int64_t rows) { memory_.reserve(rows); }
  const std::shared_ptr<std::byte>& data() const { return memory_.data(); }

 private:
  std::int64_t stride_;
  RowMemory memory_;
};

// How a step's work on some memory is divided among threads: each has its split() of the rows, or any may
// come anywhere.
enum class Division { tokens, outputs, anywhere };

inline Division by_row(Rows rows) { return rows == Rows::tokens ? Division::tokens : Division::outputs; }

struct Access {
  const void* memory;
  Division division;
  bool writes;

  // Whether one thread may see what another does.
  bool conflicts(const Access& other) const {
    if (memory != other.memory || !(writes || other.writes)) return false;
    return division != other.division || division == Division::anywhere;
  }
};

inline Access reads(const void* memory, Division division) { return {memory, division, false}; }
inline Access writes(const void* memory, Division division) { return {memory, division, true}; }

struct Worker {
  int member, members;
};

class Step {
 public:
  Step(std::string name, std::vector<Access> accesses)
      : name_(std::move(name)), accesses_(std::move(accesses)) {}
  virtual ~Step() = default;

  // Called by one thread before `members` execute the program; may allocate and throw.
  virtual void prepare(const Batch&, int) {}

  // Called by each of these members. Must not throw.
  virtual void run(const Batch& batch, Worker worker) = 0;

  // Whether one member does it sooner than several that have to meet before and after.
  virtual bool alone(const Batch&) const { return false; }

  const std::string& name() const { return name_; }
  const std::vector<Access>& accesses() const { return accesses_; }

 protected:
  void extend(const Step& next) {
    name_ += " " + next.name_;
    accesses_.insert(accesses_.end(), next.accesses_.begin(), next.accesses_.end());
  }

 private:
  std::string name_;
  std::vector<Access> accesses_;
};

// Each member executes some bodies for its rows, a few rows at a time: what one body writes is in the cache
// when the next one reads it. So a body looks at no rows of what is divided by row but those it is given.
class RowStep final : public Step {
 public:
  using Body = std::function<void(const Batch& batch, std::int64_t begin, std::int64_t end)>;

  RowStep(std::string name, Rows rows, std::vector<Access> accesses, Body body)
      : Step(std::move(name), std::move(accesses)), rows_(rows) {
    bodies_.push_back(std::move(body));
  }

  // Takes on what the next step does, if that is for the same rows. No barrier may be needed between them.
  bool absorb(RowStep& next) {
    if (next.rows_ != rows_) return false;
    extend(next);
    std::move(next.bodies_.begin(), next.bodies_.end(), std::back_inserter(bodies_));
    return true;
  }

  bool alone(const Batch& batch) const override { return batch.rows(rows_) <= 1; }

  void run(const Batch& batch, Worker worker) override {
    const Range range = split(batch.rows(rows_), worker.member, worker.members);
    for (std::int64_t begin = range.begin; begin < range.end; begin += kBlock) {
      const std::int64_t end = begin + kBlock < range.end ? begin + kBlock : range.end;
      for (const Body& body : bodies_) body(batch, begin, end);
    }
  }

 private:
  static constexpr std::int64_t kBlock = 8;

  Rows rows_;
  std::vector<Body> bodies_;
};

// Hands out the units of a step's work to whoever asks; which member gets which does not affect any result.
class Claims {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  std::int64_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<std::int64_t> next_{0};
};

// Hands out units in shares: a member takes those of its own share in order, and then those that are left of
// others. So what it fetched ahead of one unit is the next one.
class Shares {
 public:
  void reset(int shares) {
    if (std::ssize(taken_) != shares) taken_ = std::vector<std::atomic<std::int64_t>>(shares);
    for (std::atomic<std::int64_t>& taken : taken_) taken.store(0, std::memory_order_relaxed);
  }

  // The next of `units` for a member; `units` when none is left.
  std::int64_t next(std::int64_t units, int member) {
    return next(units, member, [&](int owner) { return split(units, owner, std::ssize(taken_)); });
  }

  // The same, where share_of(member) is that of each.
  template <class ShareOf>
  std::int64_t next(std::int64_t units, int member, const ShareOf& share_of) {
    const int shares = static_cast<int>(taken_.size());
    for (int i = 0; i < shares; ++i) {
      const int owner = (member + i) % shares;
      const Range share = share_of(owner);
      std::atomic<std::int64_t>& taken = taken_[owner];
      if (share.begin + taken.load(std::memory_order_relaxed) >= share.end) continue;
      const std::int64_t unit = share.begin + taken.fetch_add(1, std::memory_order_relaxed);
      if (unit < share.end) return unit;
    }
    return units;
  }

 private:
  std::vector<std::atomic<std::int64_t>> taken_;  // units of each share
};

}  // namespace trivet
