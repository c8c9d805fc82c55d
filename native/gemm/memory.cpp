#include "gemm/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>

namespace trivet {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMapping = std::size_t{256} << 20;

std::shared_ptr<std::byte> map_pages(std::size_t bytes) {
  void* base = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw std::bad_alloc();
  const std::size_t offset = -reinterpret_cast<std::uintptr_t>(base) % kHugePage;
  std::byte* aligned = static_cast<std::byte*>(base) + offset;
#ifdef MADV_HUGEPAGE
  madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
  return {aligned, [base, bytes](std::byte*) { munmap(base, bytes + kHugePage); }};
}

class Arena {
 public:
  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    std::lock_guard lock(mutex_);
    std::shared_ptr<std::byte> mapping = mapping_.lock();
    if (!mapping || used_ + bytes > size_) {
      size_ = std::max((bytes + kHugePage - 1) / kHugePage * kHugePage, kMapping);
      mapping = map_pages(size_);
      mapping_ = mapping;
      used_ = 0;
    }
    std::byte* data = mapping.get() + used_;
    used_ += bytes;
    return {std::move(mapping), data};
  }

 private:
  std::mutex mutex_;
  std::weak_ptr<std::byte> mapping_;
  std::size_t size_ = 0, used_ = 0;
};

}  // namespace

std::shared_ptr<std::byte> allocate_weights(std::size_t bytes) {
  static Arena arena;
  return arena.allocate(bytes);
}

}  // namespace trivet
