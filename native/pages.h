// Memory in whole pages from the system.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace trivet {

// Zeroed, aligned to 2 MiB and on huge pages where the system has them; a page that was never touched takes
// no memory. Throws std::bad_alloc.
std::shared_ptr<std::byte> map_pages(std::size_t bytes);

// Has pages of such memory cleared before they are used, and leaves what others write there meanwhile. They
// are touched, not asked for by madvise, during which no thread could map or unmap anything.
void prepare_pages(std::byte* begin, std::size_t bytes);

// Gives their memory back; they are zero again.
void discard_pages(std::byte* begin, std::size_t bytes);

// As malloc gives it, but on huge pages where the system has them; for what is looked into at random.
void* allocate_on_pages(std::size_t bytes);

template <class T>
struct PageAllocator {
  using value_type = T;

  PageAllocator() = default;
  template <class U>
  PageAllocator(const PageAllocator<U>&) {}
  T* allocate(std::size_t count) { return static_cast<T*>(allocate_on_pages(count * sizeof(T))); }
  void deallocate(T* p, std::size_t) { std::free(p); }
  bool operator==(const PageAllocator&) const = default;
};

// Lets the system have back the memory of the whole pages of a mapped file in [begin, end); it reads them
// anew on the next access.
void release_mapped_pages(const std::byte* begin, const std::byte* end);

}  // namespace trivet
