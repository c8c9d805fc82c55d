import argparse
from dataclasses import fields

import msgspec
import pytest

from trivet.api.args import AsyncEngineArgs, EngineArgs, parse_size
from trivet.api.vllm_args import VllmArgs
from trivet.engine.config import EngineConfig
from trivet.errors import RequestError


@pytest.fixture(autouse=True)
def model_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (7, 7),
        ("4096", 4096),
        ("16k", 16000),
        ("16K", 16384),
        ("1.5K", 1536),
        (" 2M ", 2**21),
        ("3g", 3 * 10**9),
        ("1T", 2**40),
    ],
)
def test_sizes_have_units(text, number):
    assert parse_size(text, "n") == number


@pytest.mark.parametrize("text", ["", "k", "1.5.2", "-3", "16kb", "1e3", True, 2.5, None])
def test_other_sizes_are_refused(text):
    with pytest.raises(RequestError, match="n must be a number like"):
        parse_size(text, "n")


def test_defaults_are_the_engine_s():
    assert EngineArgs("m.gguf").engine_config() == EngineConfig(model="m.gguf")


@pytest.mark.parametrize(
    ("given", "config"),
    [
        ({"max_model_len": "2K"}, {"max_model_len": 2048}),
        ({"max_model_len": "auto"}, {"max_model_len": None}),
        ({"max_model_len": -1}, {"max_model_len": None}),
        ({"kv_cache_memory_bytes": "1G"}, {"kv_cache_memory": 2**30}),
        ({"num_gpu_blocks_override": 9}, {"num_blocks": 9}),
        ({"max_num_queued_reqs": 3}, {"max_queue": 3}),
        ({"max_num_queued_reqs": 0}, {"max_queue": 0}),
        ({"max_num_queued_tokens": 9}, {"max_queued_tokens": 9}),
        ({"step_timeout": 2.5}, {"step_timeout": 2.5}),
        ({"max_num_batched_tokens": "1K"}, {"max_num_batched_tokens": 1024}),
        ({"enable_prefix_caching": False}, {"enable_prefix_caching": False}),
        ({"enable_prefix_caching": None}, {"enable_prefix_caching": True}),
        ({"max_num_queued_reqs": None, "max_num_seqs": None, "block_size": None}, {}),
        ({"performance_mode": "throughput"}, {"max_num_seqs": 256, "max_num_batched_tokens": 4096}),
        ({"performance_mode": "throughput", "max_num_seqs": 3}, {"max_num_seqs": 3, "max_num_batched_tokens": 4096}),
        ({"gpu_memory_utilization": 0.5}, {"memory_share": 0.5, "gpu_memory_utilization": 0.5}),
        ({"max_num_batched_tokens": 8192}, {"max_num_batched_tokens": 8192}),
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "fp8"}),
        ({"device": "cuda", "gpu_layers": 9}, {"device": "cuda", "gpu_layers": 9}),
        ({"enforce_eager": True, "numerics": "fast"}, {"enforce_eager": True, "numerics": "fast"}),
        ({"dtype": "float32"}, {"kv_cache_dtype": "f32"}),
        ({"dtype": "half"}, {"kv_cache_dtype": "f16"}),
        ({"dtype": "half", "kv_cache_dtype": "q8_0"}, {"kv_cache_dtype": "q8_0"}),
        ({"kv_cache_dtype": "q8_0/half"}, {"kv_cache_dtype": "q8_0/f16"}),
        ({"kv_cache_dtype": "float16/half"}, {"kv_cache_dtype": "f16"}),
        ({"dtype": "half", "kv_cache_dtype": "q8_0/auto"}, {"kv_cache_dtype": "q8_0/f16"}),
        ({"dtype": "float32", "kv_cache_dtype": "bfloat16"}, {"kv_cache_dtype": "bf16"}),
        ({"block_size": 32, "threads": 3, "max_num_seqs": 5}, {"block_size": 32, "threads": 3, "max_num_seqs": 5}),
    ],
)
def test_arguments_reach_the_engine(given, config):
    expected = msgspec.structs.replace(EngineConfig(model="m.gguf"), **config)
    assert EngineArgs("m.gguf", **given).engine_config() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_model_len": "long"}, "max_model_len must be a number like"),
        ({"max_model_len": 0}, "max_model_len must be at least 1, got 0"),
        ({"max_num_seqs": 0}, "max_num_seqs must be a whole number, at least 1, got 0"),
        ({"max_num_seqs": "8"}, "max_num_seqs must be a whole number, at least 1, got '8'"),
        ({"max_num_queued_reqs": -1}, "max_num_queued_reqs must be a whole number, at least 0, got -1"),
        ({"stream_interval": 0}, "stream_interval must be a whole number, at least 1, got 0"),
        ({"dtype": "q8_0"}, "dtype must be one of auto"),
        ({"dtype": "int4"}, r"dtype must be one of auto, .*, got 'int4'"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "kv_cache_dtype must be one of"),
        ({"kv_cache_dtype": "f16/f16/f16"}, "kv_cache_dtype must be one of"),
        ({"dtype": "fp8"}, "dtype must be one of"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"gpu_layers": -1}, "gpu_layers must be a whole number, at least 0, got -1"),
        ({"numerics": "loose"}, "numerics must be one of exact, fast, got 'loose'"),
        ({"block_size": 24}, r"block_size must be one of"),
        ({"threads": -1}, "threads must be 0"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2 is not supported, only 1"),
        ({"quantization": "awq"}, r"quantization='awq' is not supported, only 'gguf': weights are used in"),
        ({"speculative_config": {"method": "ngram"}}, "speculative_config=.* is not supported, only None"),
        ({"enable_chunked_prefill": False}, "enable_chunked_prefill=False is not supported, only True"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be greater than 0 and at most 1, got 1.5"),
        ({"max_logprobs": -2}, "max_logprobs must be -1"),
        ({"logprobs_mode": "raw_logits"}, "logprobs_mode must be one of"),
    ],
)
def test_bad_arguments_say_so(given, message):
    with pytest.raises(RequestError, match=message):
        EngineArgs("m.gguf", **given)


def test_an_unknown_argument_gets_the_nearest():
    with pytest.raises(TypeError, match=r"no argument 'max_modellen'; did you mean 'max_model_len'\?"):
        EngineArgs("m.gguf", max_modellen=3)
    with pytest.raises(TypeError, match=r"no argument 'zzz'$"):
        EngineArgs("m.gguf", zzz=3)


def test_vllm_s_other_fields_are_taken_where_they_ask_for_nothing():
    for field in fields(VllmArgs):
        also = field.metadata["also"]
        for harmless in [None, *(["anything"] if also is None else also)]:
            assert getattr(EngineArgs("m.gguf", **{field.name: harmless}), field.name) == harmless
        if also is not None:
            with pytest.raises(RequestError, match=f"{field.name}='something' is not supported"):
                EngineArgs("m.gguf", **{field.name: "something"})


def test_async_arguments():
    args = AsyncEngineArgs("m.gguf", enable_log_requests=True)
    assert args.engine_config() == EngineConfig(model="m.gguf")
    with pytest.raises(TypeError, match=r"AsyncEngineArgs has no argument 'enable_log_request'; did you mean"):
        AsyncEngineArgs("m.gguf", enable_log_request=True)


@pytest.mark.parametrize("cls", [EngineArgs, AsyncEngineArgs])
def test_a_script_s_own_options(cls):
    parser = cls.add_cli_args(argparse.ArgumentParser())
    assert cls.from_cli_args(parser.parse_args([])) == cls()
    line = "--model m.gguf --max-model-len 1K --max_num_seqs 3 --enforce-eager --no-enable-prefix-caching"
    line += ' --override-generation-config {"top_k":3} --served-model-name a b --gpu-memory-utilization 0.5'
    expected = cls(
        "m.gguf",
        max_model_len="1K",
        max_num_seqs=3,
        enforce_eager=True,
        enable_prefix_caching=False,
        override_generation_config={"top_k": 3},
        served_model_name=["a", "b"],
        gpu_memory_utilization=0.5,
    )
    assert cls.from_cli_args(parser.parse_args(line.split())) == expected
