#include "threads/team.h"

#include <chrono>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace trivet {
namespace {

// Long enough to bridge the gap between two operations or two steps of a busy engine, short against a context
// switch being noticed when it is idle.
constexpr std::chrono::microseconds kSpin{50};

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The calling thread's mode of floating-point operations: what default ones are, and those to which
// subnormals are zero.
#if defined(__x86_64__)
constexpr std::uint64_t kKeep = 0x1f80, kFlush = kKeep | 0x8000 | 0x0040;
std::uint64_t mode() { return _mm_getcsr(); }
void set_mode(std::uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
constexpr std::uint64_t kKeep = 0, kFlush = 1 << 24;
std::uint64_t mode() {
  std::uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_mode(std::uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
constexpr std::uint64_t kKeep = 0, kFlush = 0;
std::uint64_t mode() { return 0; }
void set_mode(std::uint64_t) {}
#endif

class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(mode()) { set_mode(kFlush); }
  ~FlushSubnormals() { set_mode(saved_); }

 private:
  std::uint64_t saved_;
};

}  // namespace

KeepSubnormals::KeepSubnormals() : saved_(mode()) { set_mode(kKeep); }
KeepSubnormals::~KeepSubnormals() { set_mode(saved_); }

ThreadTeam::ThreadTeam(int size) : size_(size) {
  if (size < 1 || size > 1024)
    throw std::invalid_argument("threads must be 1 to 1024, got " + std::to_string(size));
  threads_.reserve(size - 1);
  try {
    for (int member = 1; member < size; ++member) threads_.emplace_back([this, member] { work(member); });
  } catch (...) {
    announce(size_);
    throw;
  }
}

ThreadTeam::~ThreadTeam() {
  call_ = nullptr;
  announce(size_);
}

void ThreadTeam::announce(int members) {
  const std::uint32_t count = epoch_.load(std::memory_order_relaxed) >> kMemberBits;
  epoch_.store((count + 1) << kMemberBits | static_cast<std::uint32_t>(members), std::memory_order_release);
  epoch_.notify_all();
}

void ThreadTeam::execute(int members, Call call, void* function) {
  call_ = call;
  function_ = function;
  members_ = members;
  if (members > 1) announce(members);
  {
    FlushSubnormals mode;
    call(function, 0);
  }
  barrier();
}

void ThreadTeam::work(int member) {
  FlushSubnormals mode;
  std::uint32_t epoch = 0;
  for (;;) {
    await_change(epoch_, epoch);
    epoch = epoch_.load(std::memory_order_acquire);
    if (member >= static_cast<int>(epoch & ((1u << kMemberBits) - 1))) continue;
    if (call_ == nullptr) return;
    call_(function_, member);
    barrier();
  }
}

void ThreadTeam::await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace trivet
