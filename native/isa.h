// The instruction set that the kernels of this process use.
#pragma once

#include <vector>

namespace trivet {

enum class Isa { generic, avx2 };

const char* isa_name(Isa isa);

// What this processor and its operating system can execute, worst first.
std::vector<Isa> available_isas();

// The best available one, or what the environment variable TRIVET_ISA names; fixed at the first call.
// Throws std::runtime_error when TRIVET_ISA names an unknown or unavailable one.
Isa active_isa();

}  // namespace trivet
