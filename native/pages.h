// Memory in whole pages from the system.
#pragma once

#include <cstddef>
#include <memory>

namespace trivet {

// Zeroed, aligned to 2 MiB and on huge pages where the system has them; a page that was never touched takes
// no memory. Throws std::bad_alloc.
std::shared_ptr<std::byte> map_pages(std::size_t bytes);

}  // namespace trivet
