#include "ops/rows_kernels.h"

namespace trivet {

extern const RowKernels kRowKernelsAvx512;
const RowKernels kRowKernelsAvx512 = kRowKernels;

}  // namespace trivet
