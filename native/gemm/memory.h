// Memory for weights: zeroed, 64-byte aligned, on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <memory>

namespace trivet {

// Weights lie one after another in large mappings, because a huge page (2 MiB) is larger than most matrices
// of a small model; pages that were never written take no memory. A mapping is returned to the system with
// the last of its weights. Throws std::bad_alloc. Thread-safe.
std::shared_ptr<std::byte> allocate_weights(std::size_t bytes);

}  // namespace trivet
