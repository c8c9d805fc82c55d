"""Which format each tensor of a quantised model gets: llama.cpp's rules, as `llama-quantize` has them without an
importance matrix.
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
    "Q5_K_M": (Format.Q5_K, 17),
    "Q5_K_S": (Format.Q5_K, 16),
    "Q5_1": (Format.Q5_1, 9),
    "Q5_0": (Format.Q5_0, 8),
    "Q4_K_M": (Format.Q4_K, 15),
    "Q4_K_S": (Format.Q4_K, 14),
    "Q4_1": (Format.Q4_1, 3),
    "Q4_0": (Format.Q4_0, 2),
    "IQ4_NL": (Format.IQ4_NL, 25),
    "IQ4_XS": (Format.IQ4_XS, 30),
    "MXFP4_MOE": (Format.MXFP4, 38),
    "NVFP4": (Format.NVFP4, 39),
    "Q3_K_L": (Format.Q3_K, 13),
    "Q3_K_M": (Format.Q3_K, 12),
    "Q3_K_S": (Format.Q3_K, 11),
    "Q2_K": (Format.Q2_K, 10),
    "Q2_0": (Format.Q2_0, 41),
    "TQ2_0": (Format.TQ2_0, 37),
    "TQ1_0": (Format.TQ1_0, 36),
    "Q1_0": (Format.Q1_0, 40),
}
"""Name -> the format of most tensors, and the number of the mix as `general.file_type`."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_FALLBACKS = {
    Format.Q6_K: Format.Q8_0,
    Format.Q5_K: Format.Q5_1,
    Format.Q4_K: Format.Q5_0,
    Format.IQ4_XS: Format.IQ4_NL,
    **dict.fromkeys((Format.Q3_K, Format.Q2_K, Format.Q2_0, Format.TQ2_0, Format.TQ1_0), Format.Q4_0),
    **dict.fromkeys((Format.NVFP4, Format.Q1_0), Format.Q4_0),
}
"""For rows that are not a whole number of blocks; where that is not enough, F16."""

_KEPT = re.compile(r"_norm|ffn_gate_inp|position_embd|token_types|rope_(freqs|factors)")
"""Small and sensitive tensors; these and all vectors stay F32."""
_LAYER = re.compile(r"^blk\.(\d+)\.")
_VALUES = re.compile(r"\.attn_(v|qkv|kv_b)\.weight$")
_KEYS = re.compile(r"\.attn_k\.weight$")
_OUTPUT = re.compile(r"\.attn_output\.weight$")
_DOWN = re.compile(r"\.ffn_down(_exps|_shexp)?\.weight$")

_TERNARY = (Format.TQ1_0, Format.TQ2_0, Format.Q2_0)


def choose_formats(
    tensors: Mapping[str, TensorInfo], mix: str, num_layers: int, num_experts: int = 0, heads_per_kv: int = 1
) -> dict[str, Format]:
    """The format of each tensor. `heads_per_kv` query heads share a key and value head.

    Raises ModelError for a mix that is not known.
    """
    if mix not in MIXES:
        raise ModelError(f"there is no quantisation {mix!r}; there are {', '.join(MIXES)}")
    base = MIXES[mix][0]
    values = sorted((name for name in tensors if _VALUES.search(name)), key=_layer)
    rank = {name: i for i, name in enumerate(values)}
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"

    def choose(name: str, info: TensorInfo) -> Format:
        if len(info.shape) < 2 or not name.endswith(".weight") or _KEPT.search(name):
            return Format.F32
        if base.block_size == 1 or base is Format.Q8_0:
            return base
        if base is Format.MXFP4:
            return base if len(info.shape) > 2 else Format.Q8_0
        if name == head:
            return Format.Q6_K
        if name == "token_embd.weight":
            return Format.Q4_K if base in _TERNARY else base
        if name in rank:
            if num_experts == 8:
                return Format.Q8_0
            fmt = _value_format(mix, rank[name], len(values), heads_per_kv)
            return Format.Q5_K if num_layers == 80 and fmt in (Format.Q3_K, Format.Q4_K) else fmt
        if _KEYS.search(name) and num_experts == 8:
            return Format.Q8_0
        if _OUTPUT.search(name):
            return _output_format(mix, num_experts)
        return _down_format(mix, _layer(name), num_layers) if _DOWN.search(name) else base

    formats = {}
    for name, info in tensors.items():
        fmt = choose(name, info)
        while info.shape[-1] % fmt.block_size:
            fmt = _FALLBACKS.get(fmt, Format.F16)
        formats[name] = fmt
    return formats


def _value_format(mix: str, i: int, n: int, heads_per_kv: int) -> Format:
    """Of the i-th of n matrices of values."""
    base = MIXES[mix][0]
    match mix:
        case "Q2_K":
            return Format.Q4_K if heads_per_kv >= 4 else Format.Q3_K
        case "Q3_K_M":
            return Format.Q5_K if i < 2 else Format.Q4_K
        case "Q3_K_L":
            return Format.Q5_K
        case "Q4_K_S":
            return Format.Q5_K if i < 4 else base
        case "Q4_K_M" | "Q5_K_M":
            return Format.Q6_K if _more(i, n) else base
        case "IQ4_NL" | "IQ4_XS":
            return Format.Q5_K if heads_per_kv >= 4 else base
    return base


def _output_format(mix: str, num_experts: int) -> Format:
    if num_experts == 8 and mix in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS"):
        return Format.Q5_K
    return {"Q2_K": Format.Q3_K, "Q3_K_M": Format.Q4_K, "Q3_K_L": Format.Q5_K}.get(mix, MIXES[mix][0])


def _down_format(mix: str, i: int, n: int) -> Format:
    """Of the matrix back from the feed-forward width in the i-th of n layers."""
    base = MIXES[mix][0]
    match mix:
        case "Q2_K":
            return Format.Q3_K
        case "Q3_K_M":
            return Format.Q5_K if i < n // 16 else Format.Q4_K
        case "Q3_K_L":
            return Format.Q5_K
        case "Q4_K_S" | "IQ4_NL" | "IQ4_XS":
            return Format.Q5_K if i < n // 8 else base
        case "Q4_K_M" | "Q5_K_M":
            return Format.Q6_K if _more(i, n) else base
    return base


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else 0


def _more(i: int, n: int) -> bool:
    """Whether the i-th of n layers is one of the half that gets more bits: the first and last eighth, and of those
    between every third.
    """
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
