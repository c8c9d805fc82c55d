"""Kernels in Triton, one noun a file: a function over tensors, and the kernels that it launches."""
