#include "gemm/memory.h"

#include <algorithm>
#include <mutex>

#include "pages.h"

namespace trivet {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMapping = std::size_t{256} << 20;

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
