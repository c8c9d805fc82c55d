#include "ops/rows_kernels.h"

namespace trivet {

extern const RowKernels kRowKernelsAvx2;
const RowKernels kRowKernelsAvx2 = kRowKernels;

}  // namespace trivet
