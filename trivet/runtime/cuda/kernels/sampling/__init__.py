"""Kernels of the sampler: the arithmetic of `native/sampling`, so that a token never depends on the device.

All are to be launched with `EXACT`: a multiplication and an addition are rounded each, as on the CPU. Numbers that
change from step to step are not specialised, so that no step waits for a compiler.
"""

from __future__ import annotations

from typing import Any

EXACT: dict[str, Any] = {"enable_fp_fusion": False}
