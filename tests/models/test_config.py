"""Configurations: what is read, by default or in either spelling, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.memory import MemoryCheckpoint
from tests.models.tiny import MODELS, VOCAB
from trivet.errors import ModelError
from trivet.models import rope
from trivet.models.config import ModelConfig
from trivet.models.registry import ARCHITECTURES

TINY = {tiny.name: tiny for tiny in MODELS}
TABLE = {"token_embd.weight": np.zeros((VOCAB, 64), np.float32), "output.weight": np.zeros((VOCAB, 64), np.float32)}


def read(metadata: dict[str, Any], max_context: int | None = None, **arrays: Any) -> ModelConfig:
    vectors = {name + ".weight": np.float32(values) for name, values in arrays.items()}
    return ModelConfig.from_checkpoint(MemoryCheckpoint(metadata, TABLE | vectors), max_context)


def folder(name: str, **changes: Any) -> ModelConfig:
    return read(TINY[name].config | changes)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def gguf(
    name: str, max_context: int | None = None, arrays: dict[str, Any] | None = None, **changes: Any
) -> ModelConfig:
    metadata = {"general.architecture": TINY[name].gguf_arch} | TINY[name].metadata()
    changed = {f"{TINY[name].gguf_arch}.{key}": value for key, value in changes.items()}
    merged = {key: value for key, value in (metadata | changed).items() if value is not None}
    return read(merged, max_context, **arrays or {})


def test_every_architecture_is_tried() -> None:
    assert {folder(name).architecture for name in TINY} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny.gguf_arch])
def test_both_sources_agree(name: str) -> None:
    scaling = TINY[name].config.get("rope_scaling") or {}
    arrays = {
        f"rope_factors_{kind}": scaling[f"{kind}_factor"] for kind in ("long", "short") if f"{kind}_factor" in scaling
    }
    if name == "llama3":
        arrays["rope_freqs"] = TINY[name].gguf_tensors()["rope_freqs.weight"]
    a, b = folder(name), gguf(name, arrays=arrays)
    for x, y in zip(a.rotaries, b.rotaries, strict=True):
        assert x.inv_freq == pytest.approx(y.inv_freq, rel=1e-6)
        assert x.magnitude == pytest.approx(y.magnitude) and x.interleaved == y.interleaved
    same = {"rotaries": (), "rms_eps": 0.0, "architecture": "", "attention_scale": 0.0}
    assert replace(a, **same) == replace(b, **same)
    assert a.attention_scale == pytest.approx(b.attention_scale)


@pytest.mark.parametrize("name", ["llama3", "llama-linear", "qwen2-yarn", "phi3-long", "gemma3", "gemma3-linear"])
def test_rope_parameters_spell_the_same(name: str) -> None:
    """transformers 5 moved rope_theta and rope_scaling into rope_parameters, for Gemma 3 one for each kind of layer."""
    config = TINY[name].config
    scaling = dict(config.get("rope_scaling") or {})
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type", "default"))
    scaling["rope_theta"] = config["rope_theta"]
    if name.startswith("gemma3"):
        local = {"rope_type": "default", "rope_theta": config["rope_local_base_freq"]}
        scaling = {"full_attention": scaling, "sliding_attention": local}
    bare = without(config, "rope_theta", "rope_scaling", "rope_local_base_freq")
    assert read(bare | {"rope_parameters": scaling}) == read(config)


def test_layer_types_spell_the_same() -> None:
    kinds = [("full" if i == 5 else "sliding") + "_attention" for i in range(7)]
    assert folder("gemma3", layer_types=kinds) == folder("gemma3")


def test_defaults() -> None:
    """A config.json may leave out what its class supplies; the 4B Gemma 3 does."""
    text = {"num_hidden_layers": 34, "hidden_size": 2560, "intermediate_size": 10240, "sliding_window": 1024}
    c = read({"model_type": "gemma3", "text_config": text})
    assert (c.num_heads, c.num_kv_heads, c.head_dim, c.vocab_size) == (8, 4, 256, VOCAB)
    assert (c.act, c.attention_scale, c.embedding_scale) == ("gelu_tanh", 1 / 16, math.sqrt(2560))
    assert c.windows[:7] == (1024, 1024, 1024, 1024, 1024, 0, 1024)
    assert read(without(TINY["gemma2"].config, "attn_logit_softcapping")).attention_softcap == 50
    assert folder("gemma2", attn_logit_softcapping=None).attention_softcap == 0
    assert read(without(TINY["mistral"].config, "sliding_window")).windows == (4096,) * 3
    assert folder("mistral", sliding_window=None).windows == (0,) * 3
    assert read(without(TINY["llama"].config, "num_key_value_heads")).num_kv_heads == 4
    assert folder("qwen2", sliding_window=8).windows == (0,) * 3, "use_sliding_window is false"
    assert gguf("llama", **{"attention.head_count_kv": None, "attention.key_length": None}).kv_size == 64


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_gemma_27b_is_told_by_its_depth(name: str, layers: int) -> None:
    assert gguf(name, block_count=layers).attention_scale == pytest.approx((64 / 4) ** -0.5)
    assert gguf(name, block_count=layers - 1).attention_scale == pytest.approx(32**-0.5)


def test_yarn_stretches_the_context() -> None:
    assert folder("qwen2-yarn", max_position_embeddings=32).context_length == 128


@pytest.mark.parametrize("source", [folder, gguf])
def test_longrope_factors_follow_the_context(source: Any) -> None:
    scaling = TINY["phi3-long"].config["rope_scaling"]
    arrays = {"rope_factors_long": scaling["long_factor"], "rope_factors_short": scaling["short_factor"]}
    for max_context, kind in ((None, "long"), (33, "long"), (32, "short")):
        if source is folder:
            rotary = read(TINY["phi3-long"].config, max_context).rotaries[0]
        else:
            rotary = gguf("phi3-long", max_context, arrays).rotaries[0]
        factors = rope.default(12, 10000.0) / rotary.inv_freq
        assert factors == pytest.approx(scaling[f"{kind}_factor"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', expected one of llama, mistral"),
        ({"model_type": None}, "model_type is missing"),
        ({"hidden_size": None}, "hidden_size is missing, expected an integer between 1 and"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected an integer"),
        ({"hidden_size": 2**40}, "hidden_size is 1099511627776, expected an integer between 1 and 1048576"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_attention_heads": 3, "head_dim": 16}, "3 attention heads cannot share 2 key-value heads"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05, expected a finite number above 0"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps is inf"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
        ({"hidden_size": -(10**400)}, "hidden_size is -1000"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1 in a llama model"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, expected 1"),
        ({"rope_theta": 0}, "rope_theta is 0, expected a finite number from 2"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected one of silu"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], expected 3 of"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic', expected one of default"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": {"type": "linear", "factor": 1e-300}}, "gives a factor of 1e+300"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}, "short_factor is [1.0]"),
        ({"rope_scaling": [1]}, "rope_scaling is [1], expected an object"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised with awq are not supported"),
    ],
)
def test_absurd_folder(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        folder("llama", **changes)
    assert message in str(error.value) and str(error.value).startswith("memory: ")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"block_count": None}, "llama.block_count is missing"),
        ("llama", {"attention.head_count": [4, 4]}, "llama.attention.head_count is [4, 4], expected one integer, or 3"),
        ("llama", {"attention.head_count_kv": [2, 2, 1]}, "expected one integer, or 3 that are equal"),
        ("llama", {"attention.value_length": 8}, "llama.attention.value_length is 8, expected 16"),
        ("llama", {"attention.causal": False}, "llama.attention.causal is False"),
        ("llama", {"rope.dimension_count": 5}, "llama.rope.dimension_count is 5, expected an even number"),
        ("llama", {"rope.dimension_count": 32}, "llama.rope.dimension_count is 32"),
        ("llama", {"rope.scaling.type": "ntk"}, "llama.rope.scaling.type is 'ntk', expected one of none"),
        ("mixtral", {"expert_used_count": 5}, "a token uses 5 of 4 experts"),
        ("mixtral", {"expert_gating_func": 2}, "llama.expert_gating_func is 2, expected 1, softmax"),
        ("qwen3moe", {"expert_count": 0}, "qwen3moe.expert_count is 0"),
        ("gemma3", {"attention.sliding_window_pattern": [True]}, "sliding_window_pattern is [True]"),
    ],
)
def test_absurd_gguf(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as error:
        gguf(name, **changes)
    assert message in str(error.value) and str(error.value).startswith("memory: ")


def test_unknown_gguf_architecture() -> None:
    with pytest.raises(ModelError, match=r"general\.architecture is 'bert', expected one of llama, qwen2"):
        read({"general.architecture": "bert"})


def test_vocabulary_without_weights() -> None:
    metadata = {"general.architecture": "llama"} | TINY["llama"].metadata()
    with pytest.raises(ModelError, match=r"token_embd\.weight is missing; is this only a vocabulary"):
        ModelConfig.from_checkpoint(MemoryCheckpoint(metadata, {}))


@pytest.mark.parametrize("factors", [[1.0] * 7, [1.0] * 7 + [0.0], [1.0] * 7 + [math.nan]])
def test_bad_rope_factors(factors: list[float]) -> None:
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        gguf("llama", arrays={"rope_freqs": factors})


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "silu", "yarn", "linear"]),
    st.lists(st.integers(-1, 9), max_size=4),
    st.dictionaries(st.sampled_from(["factor", "type", "rope_theta", "long_factor", "full_attention"]), st.floats()),
)


@given(st.sampled_from(MODELS), st.data())
def test_junk_is_read_or_refused(tiny: Any, data: st.DataObject) -> None:
    config = dict(tiny.config)
    if tiny.gguf_arch and data.draw(st.booleans()):
        config = {"general.architecture": tiny.gguf_arch} | tiny.metadata()
    keys = data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3))
    try:
        read(config | {key: data.draw(JUNK) for key in keys})
    except ModelError as error:
        assert str(error).startswith("memory: ")
