"""The CPU runtime on whole models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models.stepper import Stepper
from tests.models.tiny import MODELS, PROMPT, Tiny
from tests.oracles.make_models import FILE, ROWS
from trivet import _native
from trivet.engine.config import EngineConfig
from trivet.engine.plan import SampleRow, StepPlan
from trivet.errors import EngineError
from trivet.runtime.cpu import CpuRuntime
from trivet.runtime.loader import load_runtime
from trivet.sampling.chain import Chain
from trivet.sampling.params import SamplingParams
from trivet.text.tokenizer import Tokenizer
from trivet.weights.export import export
from trivet.weights.gguf import GGUFFile

STORIES = Path(__file__).parents[3] / "shared/models/stories260k"
TEXT = STORIES.parents[1] / "data/tinystories-sample.txt"
STORY = [1, 403, 407, 261, 378]
STORY_GOES_ON = [
    *(432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292),
    *(411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426),
]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def plan(tokens: list[int], start: int, rows: list[int]) -> StepPlan:
    """One sequence's tokens from `start` on, in the blocks 0, 1, ...; greedy where rows are asked for."""
    end = start + len(tokens)
    sample = SampleRow(Chain(SamplingParams(temperature=0)), 0, end, 0, ints(*tokens))
    return StepPlan(
        token_ids=ints(*tokens),
        positions=ints(*range(start, end)),
        query_starts=ints(0, len(tokens)),
        context_lens=ints(end),
        block_tables=ints(*range(8))[None],
        logit_rows=ints(*rows),
        samples=[sample] * len(rows),
    )


def load(path: Path, **settings: object) -> CpuRuntime:
    runtime = load_runtime(EngineConfig(model=str(path), **settings))  # type: ignore[arg-type]
    assert isinstance(runtime, CpuRuntime)
    runtime.allocate_cache(8, 16)
    return runtime


def greedy(runtime: CpuRuntime, prompt: list[int], count: int) -> list[int]:
    tokens = [int(runtime.run(plan(prompt, 0, [len(prompt) - 1])).tokens[0])]
    for position in range(len(prompt), len(prompt) + count - 1):
        tokens.append(int(runtime.run(plan(tokens[-1:], position, [0])).tokens[0]))
    return tokens


@pytest.fixture(scope="module")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(FILE)


def check(model: Path, logits: np.ndarray, tokens: np.ndarray) -> None:
    ours = Stepper(model).step(PROMPT)[ROWS]
    assert (np.abs(ours - logits).max(1) / np.ptp(logits, axis=1)).max() <= 2e-4
    assert Stepper(model).greedy(PROMPT, len(tokens)) == tokens.tolist()


@pytest.mark.parametrize("tiny", MODELS, ids=str)
def test_folder(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    check(tiny.write_folder(tmp_path / "folder"), golden[f"{tiny}.logits"], golden[f"{tiny}.tokens"])


@pytest.mark.parametrize("tiny", [m for m in MODELS if m.gguf_arch], ids=str)
def test_gguf(tiny: Tiny, golden: Mapping[str, np.ndarray], tmp_path: Path) -> None:
    check(tiny.write_gguf(tmp_path / "model.gguf"), golden[f"{tiny}.logits"], golden[f"{tiny}.tokens"])


@pytest.mark.skipif(not STORIES.exists(), reason="../shared/models/stories260k is not there")
@pytest.mark.parametrize("file", ["stories260k.gguf", "hf"])
@pytest.mark.parametrize("cache", ["auto", "f16", "bf16"])
def test_stories(file: str, cache: str) -> None:
    runtime = load(STORIES / file, kv_cache_dtype=cache)
    assert greedy(runtime, STORY, len(STORY_GOES_ON)) == STORY_GOES_ON


def test_kernels_that_failed_their_trial_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = _native.system_info() | {"isa": "avx2", "failed_trial": ["amx", "avx512"]}
    monkeypatch.setattr(_native, "system_info", lambda: found)
    load(MODELS[0].write_gguf(tmp_path / "model.gguf"))
    assert "kernels for amx and avx512 did not pass their trial on this processor; those for avx2 are" in caplog.text


@pytest.mark.parametrize(
    ("weights", "dtype", "found"),
    [
        ("F32", "auto", "f32"),
        ("F16", "auto", "f16"),
        ("BF16", "auto", "f16"),
        ("Q8_0", "auto", "bf16"),
        ("F16", "q8_0/auto", "q8_0/f16"),
        ("F32", "f16/f16", "f16"),
    ],
)
def test_the_type_of_the_cache(weights: str, dtype: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / f"{weights}.gguf"
    export(GGUFFile(MODELS[0].write_gguf(tmp_path / "model.gguf")), path, weights)
    assert load(path, kv_cache_dtype=dtype).identity()["cache type"] == found


@pytest.mark.skipif(not TEXT.exists(), reason="../shared/data/tinystories-sample.txt is not there")
def test_a_quantised_cache_hardly_changes_the_perplexity() -> None:
    tokens = Tokenizer.load(STORIES / "stories260k.gguf").encode(TEXT.read_text()[:24000])

    def perplexity(cache: str) -> float:
        runtime = load(STORIES / "stories260k.gguf", kv_cache_dtype=cache)
        loss = 0.0
        pieces = [tokens[at : at + 128] for at in range(0, len(tokens), 128)]
        for piece in pieces:
            length = len(piece)
            logits = runtime.program.run(
                ints(*piece), ints(*range(length)), ints(0, length), ints(length), ints(*range(8))[None],
                ints(*range(length)),
            )  # fmt: skip
            logits = logits[:-1].astype(np.float64)
            peaks = logits.max(1)
            totals = peaks + np.log(np.exp(logits - peaks[:, None]).sum(1))
            loss += float((totals - logits[np.arange(length - 1), piece[1:]]).sum())
        return math.exp(loss / (len(tokens) - len(pieces)))

    exact = perplexity("f32")
    assert exact < 6
    assert abs(perplexity("q8_0") / exact - 1) < 0.005


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in this process's memory."""
    _, *maps = re.split(rf"^.* {re.escape(str(path))}$", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return sum(1024 * int(re.search(r"^Rss: +(\d+) kB", m, re.MULTILINE)[1]) for m in maps)  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells how much memory is in use")
@pytest.mark.parametrize(("mlock", "expected"), [(False, 0), (True, 125 << 20)])
def test_a_table_tied_to_the_output_is_in_memory_once(
    mlock: bool, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab, step = 32000, 500
    monkeypatch.setattr("tests.models.tiny.VOCAB", vocab)
    llama = next(m for m in MODELS if m.name == "llama3")
    shape = {"vocab_size": vocab, "hidden_size": 1024, "num_hidden_layers": 1, "max_position_embeddings": step}
    path = replace(llama, config=llama.config | shape).write_gguf(tmp_path / "model.gguf")
    runtime = load_runtime(EngineConfig(model=str(path), threads=2, mlock=mlock))
    assert isinstance(runtime, CpuRuntime)
    runtime.allocate_cache(step, 16)
    for tokens in np.random.default_rng(0).permutation(vocab).reshape(-1, step):
        runtime.program.run(
            ints(*tokens), ints(*range(step)), ints(0, step), ints(step),
            ints(*range(step // 16 + 1))[None], ints(step - 1),
        )  # fmt: skip
    assert resident(path) == pytest.approx(expected, abs=4 << 20)


def test_info(tmp_path: Path) -> None:
    llama = next(m for m in MODELS if m.name == "llama")
    runtime = load(llama.write_gguf(tmp_path / "small.gguf"), threads=3)
    info = runtime.info
    assert (info.name, info.architecture, info.dtype) == ("small", "llama", "f32")
    assert info.device.startswith("cpu (") and info.device.endswith(", 3 threads)")
    assert (info.vocab_size, info.num_layers, info.context_length) == (96, 3, 128)
    assert info.weight_bytes >= 4 * (3 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3) + 96 * 64)
    assert runtime.block_bytes(32) == 3 * 2 * 32 * 32 * 4
    assert runtime.available_bytes() > 1 << 20
    runtime.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_cache_dtype": "q4_0"}, "kv_cache_dtype must be one of auto, f32, f16, bf16, q8_0, or two .*, got q4_0"),
        ({"kv_cache_dtype": "f32/q4_0"}, "kv_cache_dtype must be one of .*, got f32/q4_0"),
        ({"threads": -1}, r"threads must be 0 \(one per core\) to 1024, got -1"),
        ({"numerics": "loose"}, "numerics must be exact or fast, got loose"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=message):
        load(MODELS[0].write_gguf(tmp_path / "model.gguf"), **settings)


@pytest.mark.parametrize(
    ("blocks", "size", "message"),
    [
        (8, 10, "multiple of 16"),
        (0, 16, "1 to"),
        (2**31 - 1, 65536, r"take \d+ bytes of KV cache, .* use fewer blocks"),
    ],
)
def test_a_cache_that_cannot_be(blocks: int, size: int, message: str, tmp_path: Path) -> None:
    runtime = load(MODELS[0].write_gguf(tmp_path / "model.gguf"))
    with pytest.raises(EngineError, match=message):
        runtime.allocate_cache(blocks, size)
