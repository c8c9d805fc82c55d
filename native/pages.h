// Memory in whole pages from the system.
#pragma once

#include <cstddef>
#include <memory>

namespace trivet {

// Zeroed, aligned to 2 MiB and on huge pages where the system has them; a page that was never touched takes
// no memory. Throws std::bad_alloc.
std::shared_ptr<std::byte> map_pages(std::size_t bytes);

// Lets the system have back the memory of the whole pages of a mapped file in [begin, end); it reads them
// anew on the next access.
void release_mapped_pages(const std::byte* begin, const std::byte* end);

}  // namespace trivet
