"""Runs graphs on an NVIDIA GPU, with PyTorch and Triton. Nothing outside this package imports them."""
