// Memory for weights and for sums: zeroed, 64-byte aligned, on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace trivet {

// Weights lie one after another in large mappings, because a huge page (2 MiB) is larger than most matrices
// of a small model; pages that were never written take no memory. A mapping is returned to the system with
// the last of its weights. Throws std::bad_alloc. Thread-safe.
std::shared_ptr<std::byte> allocate_weights(std::size_t bytes);

// The system clears pages before it gives them, which for a model takes as long as to repack it. A thread of
// its own has that done to so many bytes, from which weights are then allocated; the second call, for 0
// bytes, ends it and gives back what was not allocated.
void expect_weights(std::size_t bytes);

// Sums of products that a thread puts down while it works on others, kProductSums floats; it has them until
// it ends. Throws std::bad_alloc.
inline constexpr std::int64_t kProductSums = 128 << 10;
float* product_sums();

}  // namespace trivet
