"""Which tensor gets which format."""

from __future__ import annotations

import pytest

from trivet.errors import ModelError
from trivet.weights.formats import Format
from trivet.weights.mixes import MIXES, choose_formats
from trivet.weights.tensor import TensorInfo

# Layers of which attn_v and ffn_down get more bits in Q4_K_M, as llama.cpp writes Qwen3-0.6B.
MORE_OF_28 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]


def model(layers: int = 28, hidden: int = 1024, ffn: int = 3072, tied: bool = False, experts: int = 0) -> dict:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (512, hidden), "output_norm.weight": (hidden,)}
    if not tied:
        shapes["output.weight"] = (512, hidden)
    stack = (experts,) if experts else ()
    suffix = "_exps" if experts else ""
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{i}.{name}.weight"] = (hidden, hidden)
        shapes[f"blk.{i}.attn_q.bias"] = shapes[f"blk.{i}.attn_norm.weight"] = (hidden,)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"blk.{i}.{name}{suffix}.weight"] = (*stack, ffn, hidden)
        shapes[f"blk.{i}.ffn_down{suffix}.weight"] = (*stack, hidden, ffn)
        if experts:
            shapes[f"blk.{i}.ffn_gate_inp.weight"] = (experts, hidden)
    return {name: TensorInfo(name, shape, Format.BF16) for name, shape in shapes.items()}


def exceptions(mix: str, tensors: dict, layers: int = 28, experts: int = 0) -> dict[str, str]:
    """The tensors of two dimensions or more that are not in the mix's own format."""
    chosen = choose_formats(tensors, mix, layers, experts)
    assert all(chosen[name] is Format.F32 for name, info in tensors.items() if len(info.shape) == 1)
    return {
        name: chosen[name].name
        for name, info in tensors.items()
        if len(info.shape) > 1 and chosen[name] is not MIXES[mix][0]
    }


@pytest.mark.parametrize("mix", ["F32", "F16", "BF16", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("tied", [True, False])
def test_plain_mixes_have_one_format(mix: str, tied: bool) -> None:
    assert exceptions(mix, model(tied=tied)) == {}


@pytest.mark.parametrize("mix", ["Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL", "NVFP4", "Q3_K_S", "Q1_0"])
@pytest.mark.parametrize(("tied", "name"), [(True, "token_embd.weight"), (False, "output.weight")])
def test_the_output_gets_more_bits(mix: str, tied: bool, name: str) -> None:
    found = exceptions(mix, model(tied=tied))
    if mix == "IQ4_NL":
        assert {found.pop(f"blk.{i}.ffn_down.weight") for i in range(3)} == {"Q5_K"}
    assert found == {name: "Q6_K"}


def layers(*names: str, of: range | list[int], fmt: str) -> dict[str, str]:
    return {f"blk.{i}.{name}.weight": fmt for i in of for name in names}


ALL = range(28)
MIXTURES = {
    "Q4_K_M": layers("attn_v", "ffn_down", of=MORE_OF_28, fmt="Q6_K"),
    "Q5_K_M": layers("attn_v", "ffn_down", of=MORE_OF_28, fmt="Q6_K"),
    "Q4_K_S": layers("attn_v", of=range(4), fmt="Q5_K") | layers("ffn_down", of=range(3), fmt="Q5_K"),
    "Q5_K_S": {},
    "Q3_K_L": layers("attn_v", "ffn_down", "attn_output", of=ALL, fmt="Q5_K"),
    "Q3_K_M": layers("attn_v", "ffn_down", "attn_output", of=ALL, fmt="Q4_K")
    | layers("attn_v", of=range(2), fmt="Q5_K")
    | layers("ffn_down", of=range(1), fmt="Q5_K"),
    "Q2_K": layers("attn_v", "ffn_down", "attn_output", of=ALL, fmt="Q3_K"),
    "IQ4_XS": layers("ffn_down", of=range(3), fmt="Q5_K"),
    "TQ2_0": {"token_embd.weight": "Q4_K"},
    "TQ1_0": {"token_embd.weight": "Q4_K"},
    "Q2_0": {"token_embd.weight": "Q4_K"},
}


@pytest.mark.parametrize("mix", MIXTURES)
def test_llamacpps_mixtures(mix: str) -> None:
    assert exceptions(mix, model()) == MIXTURES[mix] | {"output.weight": "Q6_K"}


@pytest.mark.parametrize(("mix", "fmt"), [("Q2_K", "Q4_K"), ("IQ4_XS", "Q5_K"), ("IQ4_NL", "Q5_K"), ("Q4_K_S", "Q4_K")])
def test_values_that_many_heads_share_get_more_bits(mix: str, fmt: str) -> None:
    formats = choose_formats(model(), mix, 28, heads_per_kv=4)
    assert formats["blk.9.attn_v.weight"].name == fmt


def test_mxfp4_is_for_experts() -> None:
    formats = choose_formats(model(experts=16), "MXFP4_MOE", 28, 16)
    assert {fmt.name for name, fmt in formats.items() if "_exps" in name} == {"MXFP4"}
    assert formats["output.weight"] is formats["blk.0.attn_q.weight"] is Format.Q8_0


def test_q4_k_m_of_80_layers_keeps_all_values_well() -> None:
    found = exceptions("Q4_K_M", model(layers=80), layers=80)
    assert sum("attn_v" in name for name in found) == 80
    assert sum("ffn_down" in name for name in found) == 40


@pytest.mark.parametrize("mix", ["Q4_0", "Q4_K_M", "Q6_K"])
def test_eight_experts_share_keys_and_values_of_8_bits(mix: str) -> None:
    found = exceptions(mix, model(experts=8), experts=8)
    assert {name: fmt for name, fmt in found.items() if "attn_k" in name or "attn_v" in name} == {
        f"blk.{i}.{name}.weight": "Q8_0" for i in range(28) for name in ("attn_k", "attn_v")
    }
    output = {fmt for name, fmt in found.items() if "attn_output" in name}
    assert output == ({"Q5_K"} if mix == "Q4_K_M" else set())
    assert found["blk.0.ffn_gate_inp.weight"] == "F32"
    assert sum("ffn_down_exps" in name for name in found) == (14 if mix == "Q4_K_M" else 0)


@pytest.mark.parametrize(
    ("mix", "hidden", "expected"),
    [
        *[("Q4_K_M", 960, "Q5_0"), ("Q5_K_S", 960, "Q5_1"), ("Q6_K", 960, "Q8_0"), ("Q3_K_S", 960, "Q4_0")],
        *[("Q2_K", 960, "Q4_0"), ("TQ1_0", 960, "Q4_0"), ("IQ4_XS", 960, "IQ4_NL"), ("Q4_0", 960, "Q4_0")],
        *[("Q1_0", 960, "Q4_0"), ("NVFP4", 960, "NVFP4"), ("Q8_0", 48, "F16"), ("Q4_K_M", 48, "F16")],
    ],
)
def test_rows_of_no_whole_number_of_blocks(mix: str, hidden: int, expected: str) -> None:
    formats = choose_formats(model(hidden=hidden), mix, 28)
    assert formats["blk.3.attn_q.weight"].name == expected
    assert formats["blk.4.ffn_gate.weight"] is formats["blk.3.attn_q.weight"]
    assert formats["blk.3.ffn_down.weight"].block_size == (MIXES[mix][0]).block_size
    assert hidden % formats["output.weight"].block_size == 0


def test_an_unknown_mix() -> None:
    with pytest.raises(ModelError, match="no quantisation 'Q3_X'; there are F32, F16, BF16, Q8_0, Q6_K, Q5_K_M"):
        choose_formats(model(), "Q3_X", 28)
