#include "pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace trivet {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

std::shared_ptr<std::byte> map_pages(std::size_t bytes) {
  if (bytes > SIZE_MAX - kHugePage) throw std::bad_alloc();
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

}  // namespace trivet
