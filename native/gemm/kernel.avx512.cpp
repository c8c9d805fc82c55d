#include "gemm/vectors_avx512.h"

namespace trivet {

extern const Kernels kAvx512Kernels = make_kernels<Avx512>();

}  // namespace trivet
