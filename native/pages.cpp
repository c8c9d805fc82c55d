#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace trivet {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

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

void prepare_pages(std::byte* begin, std::size_t bytes) {
  for (std::byte* page = begin; page < begin + bytes; page += page_bytes()) {
    unsigned char zero = 0;
    std::atomic_ref(reinterpret_cast<unsigned char&>(*page))
        .compare_exchange_strong(zero, 0, std::memory_order_relaxed);
  }
}

void discard_pages(std::byte* begin, std::size_t bytes) {
  if (bytes > 0) madvise(begin, bytes, MADV_DONTNEED);
}

void* allocate_on_pages(std::size_t bytes) {
  if (bytes > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const bool huge = bytes >= kHugePage;
  void* data = huge ? std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage)
                    : std::malloc(bytes);
  if (data == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (huge) madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

void release_mapped_pages(const std::byte* begin, const std::byte* end) {
  const std::uintptr_t page = page_bytes();
  const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const std::uintptr_t last = reinterpret_cast<std::uintptr_t>(end) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace trivet
