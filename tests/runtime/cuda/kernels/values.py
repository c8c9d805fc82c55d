"""Random tensors, and what they are compared by."""

from __future__ import annotations

import torch


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """For kernels that are only compiled."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def error(y: torch.Tensor, reference: torch.Tensor) -> float:
    """|y - reference| / |reference|"""
    return float((y.double() - reference).norm() / reference.norm())
