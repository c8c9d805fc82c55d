"""What the choice of a kernel's tiles depends on."""

from __future__ import annotations

from functools import cache

import torch


@cache
def capability(device: torch.device) -> int:
    """Compute capability: 80 (A100), 86, 89, 90 (H100, H200), ... Under Triton's interpreter, as if it were 90."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
