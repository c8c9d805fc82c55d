// A trial of the kernels of an instruction set.
#pragma once

#include "isa.h"

namespace trivet {

// How far the kernels of one instruction set are from those of another: the largest root mean square of the
// differences, as a share of that of the values, over small examples of every format of weights, every type
// of cache and every operation on rows. Rounding to bfloat16 is within 0.01; a NaN counts as infinite. Both
// sets are executed, whatever active_isa() is.
double kernel_difference(Isa isa, Isa other);

}  // namespace trivet
