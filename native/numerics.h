// What results may depend on.
#pragma once

#include <string>

namespace trivet {

// With exact numerics a row's results have the same bits whatever is computed beside it. Fast ones give that
// up where the instruction set in use computes many rows faster otherwise: AMX rounds weights in blocks to
// bfloat16, as it does their activations, or to int8; attention rounds to bfloat16, see attention_kernels().
// Everywhere else they are the same.
enum class Numerics { exact, fast };

// Throws std::invalid_argument for a name that is neither.
Numerics numerics_of(const std::string& name);

}  // namespace trivet
