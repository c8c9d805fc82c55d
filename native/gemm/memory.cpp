#include "gemm/memory.h"

#include <algorithm>
#include <mutex>
#include <thread>

#include "pages.h"

namespace trivet {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMapping = std::size_t{256} << 20;

std::size_t whole_pages(std::size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

class Arena {
 public:
  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    std::lock_guard lock(mutex_);
    std::shared_ptr<std::byte> mapping = mapping_.lock();
    if (!mapping || used_ + bytes > size_) mapping = map(std::max(whole_pages(bytes), kMapping));
    std::byte* data = mapping.get() + used_;
    used_ += bytes;
    return {std::move(mapping), data};
  }

  void expect(std::size_t bytes) {
    std::lock_guard one_at_a_time(expecting_);
    preparing_ = {};  // waits for its end
    std::lock_guard lock(mutex_);
    if (expected_ && expected_ == mapping_.lock()) {
      const std::size_t used = std::min(whole_pages(used_), size_);
      discard_pages(expected_.get() + used, size_ - used);
    }
    expected_ = nullptr;
    if (bytes == 0) return;
    expected_ = map(whole_pages(bytes));
    preparing_ = std::jthread([begin = expected_.get(), end = expected_.get() + size_](std::stop_token stop) {
      for (std::byte* page = begin; page < end && !stop.stop_requested(); page += kHugePage) {
        prepare_pages(page, kHugePage);
      }
    });
  }

 private:
  std::shared_ptr<std::byte> map(std::size_t bytes) {
    std::shared_ptr<std::byte> mapping = map_pages(bytes);
    mapping_ = mapping;
    size_ = bytes;
    used_ = 0;
    return mapping;
  }

  std::mutex expecting_, mutex_;
  std::weak_ptr<std::byte> mapping_;
  std::size_t size_ = 0, used_ = 0;
  std::shared_ptr<std::byte> expected_;
  std::jthread preparing_;
};

Arena& arena() {
  static Arena arena;
  return arena;
}

}  // namespace

std::shared_ptr<std::byte> allocate_weights(std::size_t bytes) { return arena().allocate(bytes); }

void expect_weights(std::size_t bytes) { arena().expect(bytes); }

float* product_sums() {
  thread_local const std::shared_ptr<std::byte> sums = map_pages(kProductSums * sizeof(float));
  return reinterpret_cast<float*>(sums.get());
}

}  // namespace trivet
