"""Which format each tensor of a quantised model gets: llama.cpp's rules for the formats we write.

Where those rules name a format that is not written here, the next larger one that is takes its place: Q6_K for Q5_K,
Q8_0 for Q5_0 (the fallback of Q4_K).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.tensor import TensorInfo

MIXES = {
    "F32": (Format.F32, 0),
    "F16": (Format.F16, 1),
    "BF16": (Format.BF16, 32),
    "Q8_0": (Format.Q8_0, 7),
    "Q6_K": (Format.Q6_K, 18),
    "Q4_K_M": (Format.Q4_K, 15),
    "Q4_0": (Format.Q4_0, 2),
}
"""Name -> the format of most tensors, and the number of the mix as `general.file_type`."""

_FALLBACKS = {Format.Q4_K: Format.Q8_0, Format.Q6_K: Format.Q8_0, Format.Q8_0: Format.F16, Format.Q4_0: Format.F16}
"""For rows that are not a whole number of blocks."""

_KEPT = re.compile(r"_norm|ffn_gate_inp|position_embd|token_types|rope_(freqs|factors)")
"""Small and sensitive tensors; these and all vectors stay F32."""
_LAYER = re.compile(r"^blk\.(\d+)\.")
_VALUES = re.compile(r"\.attn_(v|qkv|kv_b)\.weight$")
_DOWN = re.compile(r"\.ffn_down(_exps|_shexp)?\.weight$")


def choose_formats(
    tensors: Mapping[str, TensorInfo], mix: str, num_layers: int, num_experts: int = 0
) -> dict[str, Format]:
    """The format of each tensor. Raises ModelError for a mix that is not known."""
    if mix not in MIXES:
        raise ModelError(f"there is no quantisation {mix!r}; there are {', '.join(MIXES)}")
    base = MIXES[mix][0]
    quantized = base.block_size > 1
    values = sorted((name for name in tensors if _VALUES.search(name)), key=_layer)
    rank = {name: i for i, name in enumerate(values)}
    formats = {}
    for name, info in tensors.items():
        fmt = base
        if len(info.shape) < 2 or not name.endswith(".weight") or _KEPT.search(name):
            fmt = Format.F32
        elif name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in tensors):
            fmt = Format.Q6_K if quantized and base is not Format.Q8_0 else base
        elif quantized and num_experts == 8 and (name in rank or name.endswith(".attn_k.weight")):
            fmt = Format.Q8_0
        elif mix == "Q4_K_M":
            if name in rank:
                more = _more(rank[name], len(values)) or num_layers == 80
            elif _DOWN.search(name):
                more = _more(_layer(name), num_layers)
            else:
                more = num_experts == 8 and name.endswith(".attn_output.weight")
            fmt = Format.Q6_K if more else base
        while info.shape[-1] % fmt.block_size:
            fmt = _FALLBACKS[fmt]
        formats[name] = fmt
    return formats


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else 0


def _more(i: int, n: int) -> bool:
    """Whether the i-th of n layers is one of the half that gets more bits: the first and last eighth, and of those
    between every third.
    """
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
