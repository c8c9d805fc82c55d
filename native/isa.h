// The instruction set that the kernels of this process use.
#pragma once

#include <vector>

namespace trivet {

// avx512 has F, BW, DQ, VL and VNNI; avx512_bf16 has BF16 and VBMI besides, amx tiles of int8 and
// bfloat16.
enum class Isa { generic, avx2, avx512, avx512_bf16, amx };

const char* isa_name(Isa isa);

// What this processor and its operating system can execute, worst first. A build with TRIVET_EMULATE can
// execute all, those after the processor's own in software.
std::vector<Isa> available_isas();

// What the environment variable TRIVET_ISA names, else the best that is not emulated and whose kernels pass a
// trial here; fixed at the first call. Throws std::runtime_error when TRIVET_ISA names an unknown or
// unavailable one.
Isa active_isa();

// Those above the active one that did not pass.
const std::vector<Isa>& failed_isas();

}  // namespace trivet
