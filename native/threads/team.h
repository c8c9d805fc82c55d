// A fixed team of threads that executes one function at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace trivet {

// The caller of run() is member 0; the others wait for work, spinning shortly and then asleep.
//
// Members run with subnormals flushed to zero, whatever the caller's mode: speed and results must not depend
// on which member computes a row.
class ThreadTeam {
 public:
  explicit ThreadTeam(int size);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }

  // Calls f(member) on the first `members` and returns when they are done. One caller at a time. f must not
  // throw: a member that left would keep the others waiting at a barrier.
  template <class F>
  void run(int members, F&& f) {
    using Function = std::remove_reference_t<F>;
    execute(
        members, [](void* function, int member) noexcept { (*static_cast<Function*>(function))(member); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

  // For use inside run(): returns when each of its members has called it. Writes before it are seen by all
  // after it; `last` is executed by the member that comes last, before any goes on.
  template <class F>
  void barrier(F&& last) {
    const int members = members_;  // read now: once this member has come, the next function may have begun
    if (members == 1) return last();
    const std::uint32_t passed = barriers_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      last();
      arrived_.store(0, std::memory_order_relaxed);
      barriers_.store(passed + 1, std::memory_order_release);
      barriers_.notify_all();
    } else {
      await_change(barriers_, passed);
    }
  }
  void barrier() {
    barrier([] {});
  }

 private:
  using Call = void (*)(void* function, int member) noexcept;

  void execute(int members, Call call, void* function);
  void work(int member);
  void announce(int members);
  static void await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old);

  static constexpr int kMemberBits = 11;

  const int size_;
  Call call_ = nullptr;  // null tells the members to leave
  void* function_ = nullptr;
  int members_ = 0;  // of the running function
  // The number of executed functions, above kMemberBits that tell how many members the last one has. In one
  // word, so that a member never takes a function that it has no part in for the next one.
  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  alignas(64) std::atomic<int> arrived_{0};             // members at the current barrier
  alignas(64) std::atomic<std::uint32_t> barriers_{0};  // counts passed barriers
  std::vector<std::jthread> threads_;
};

// While it lives, subnormals are numbers in a team's function, too.
class KeepSubnormals {
 public:
  KeepSubnormals();
  ~KeepSubnormals();
  KeepSubnormals(const KeepSubnormals&) = delete;
  KeepSubnormals& operator=(const KeepSubnormals&) = delete;

 private:
  std::uint64_t saved_;
};

// Splits [0, count) into `parts` nearly equal ranges and gives the one of `part`.
struct Range {
  std::int64_t begin, end;
};

inline Range split(std::int64_t count, int part, int parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

}  // namespace trivet
