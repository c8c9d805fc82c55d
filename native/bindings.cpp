// The Python module trivet._native: each part binds its own names.
#include <nanobind/nanobind.h>

namespace trivet {
void bind_gemm(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_text(nanobind::module_& m);
}  // namespace trivet

NB_MODULE(_native, m) {
  nanobind::set_leak_warnings(false);  // what lives until the interpreter ends is no leak
  m.doc() = "Kernels, the compiled program and the sampler of Trivet's CPU runtime, and its tokenizers.";
  trivet::bind_gemm(m);
  trivet::bind_program(m);
  trivet::bind_sampling(m);
  trivet::bind_text(m);
}
