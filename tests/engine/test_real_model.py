"""A real model through the engine: a request's tokens and log-probabilities do not depend on its company."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from tests.engine.fake import Result, request
from tests.engine.test_clients import children, collect
from tests.models.tiny import MODELS, VOCAB, Tiny
from trivet.engine.config import EngineConfig
from trivet.engine.engine import Engine
from trivet.engine.pace import Pace
from trivet.engine.process import ProcessClient
from trivet.engine.request import EngineRequest
from trivet.weights.export import export
from trivet.weights.gguf import GGUFFile

MODEL = Path(__file__).parents[3] / "shared/models/stories260k/stories260k.gguf"
STORY = [1, 403, 407, 261, 378]
NEXT = [432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292]

CHOICES: list[dict[str, object]] = [
    {"repetition_penalty": 1.3, "top_p": 0.9},
    {"mirostat": 2, "mirostat_tau": 3.0, "temperature": 0.9},
    {},
    {"mirostat": 1, "temperature": 1.1},
    {"adaptive_target": 0.4, "temperature": 1.0},
    {"xtc_probability": 0.5, "dry_multiplier": 0.8, "dry_allowed_length": 1, "watermark": True},
]

needs_stories = pytest.mark.skipif(not MODEL.exists(), reason="../shared/models/stories260k is not there")


def config(**fields: object) -> EngineConfig:
    return EngineConfig(**({"model": str(MODEL), "max_model_len": 128, "threads": 1} | fields))


def requests() -> list[EngineRequest]:
    """Prompts that share prefixes with the first, greedy and drawn, with all that reads the history."""
    rng = random.Random(1)
    story = [*STORY, *NEXT]
    mix = [request(STORY, "story", temperature=0, max_tokens=len(NEXT), logprobs=2)]
    for i in range(31):
        prompt = story[: rng.randrange(1, len(story))] + [rng.randrange(3, 500) for _ in range(rng.randrange(0, 40))]
        fields = {"temperature": rng.choice([0.0, 0.9]), "seed": i, "max_tokens": rng.randrange(1, 40), "logprobs": 2}
        fields |= {"prompt_logprobs": 1} if i % 5 == 0 else {}
        fields |= CHOICES[i % len(CHOICES)]
        mix.append(request(prompt, f"{i}", **fields))
    return mix


def run(engine: Engine, mix: list[EngineRequest]) -> dict[str, Result]:
    results = {r.request_id: Result() for r in mix}
    for r in mix:
        engine.add(r)
    while engine.busy:
        for chunk in engine.step():
            results[chunk.request_id].add(chunk)
    engine.scheduler.check_integrity()
    return results


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    engine = Engine(config(enable_prefix_caching=False))
    results: dict[str, Result] = {}
    for r in requests():
        results |= run(engine, [r])
    engine.close()
    return results


@needs_stories
def test_the_story_is_the_one_that_other_implementations_tell(alone: dict[str, Result]) -> None:
    assert alone["story"].tokens == NEXT


@needs_stories
@pytest.mark.parametrize(
    "fields",
    [
        {"threads": 2},
        {"max_num_batched_tokens": 7},
        {"max_num_batched_tokens": 33, "enable_prefix_caching": False},
        {"num_blocks": 8},
        {"num_blocks": 10, "max_num_batched_tokens": 16},
    ],
)
def test_a_request_gets_the_same_in_any_company(alone: dict[str, Result], fields: dict) -> None:
    engine = Engine(config(**fields))
    for _ in range(2):  # the second time, prompts and outputs are in the cache
        assert run(engine, requests()) == alone
    stats = engine.stats()
    assert (stats.preemptions > 0) == ("num_blocks" in fields)
    assert (stats.cached_tokens > 0) == fields.get("enable_prefix_caching", True)
    engine.close()


@pytest.mark.parametrize("cache", ["auto", "bf16"])
def test_keys_beyond_the_range_of_the_cache_fail_their_request_alone(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud, weights = 7, MODELS[0].weights()
    weights["model.embed_tokens.weight"][:, 0] = np.arange(VOCAB) == loud
    weights["model.layers.0.self_attn.k_proj.weight"][:, 0] = 1e6
    monkeypatch.setattr(Tiny, "weights", lambda self: weights)
    path = tmp_path / "model.gguf"
    export(GGUFFile(MODELS[0].write_gguf(tmp_path / "f32.gguf")), path, "BF16")
    engine = Engine(config(model=str(path), kv_cache_dtype=cache))
    good = request([3, 4, 5], "good", temperature=0, max_tokens=8)
    expected = run(engine, [good])["good"]
    results = run(engine, [request([3, loud, 5], "loud", temperature=0, max_tokens=8), good])
    assert results["good"] == expected and expected.finish_reason == "length"
    found = results["loud"].finish_reason, results["loud"].error
    assert found == (("error", "non-finite logits") if cache == "auto" else ("length", None))
    engine.close()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_fail_the_request_that_meets_them(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt, weights = 7, MODELS[0].weights()
    weights["model.embed_tokens.weight"][spoilt, 3] = value
    monkeypatch.setattr(Tiny, "weights", lambda self: weights)
    engine = Engine(config(model=str(MODELS[0].write_gguf(tmp_path / "model.gguf"))))
    good = request([3, 4, 5], "good", temperature=0, max_tokens=8)
    expected = run(engine, [good])["good"]
    results = run(engine, [request([3, spoilt, 5], "spoilt", temperature=0, max_tokens=8), good])
    assert results["good"] == expected and expected.finish_reason == "length"
    assert (results["spoilt"].finish_reason, results["spoilt"].error) == ("error", "non-finite logits")
    engine.close()


@needs_stories
async def test_streams_go_on_when_the_process_is_killed(alone: dict[str, Result]) -> None:
    client = ProcessClient(config())
    await client.start()
    try:
        mix = requests()
        tasks = [asyncio.create_task(collect(client, r)) for r in mix]
        while client.stats().generated_tokens < 50:
            await asyncio.sleep(0.001)
        children()[0].kill()
        results = await asyncio.gather(*tasks)
    finally:
        await client.close()
    assert dict(zip([r.request_id for r in mix], results, strict=True)) == alone


@needs_stories
def test_another_engine_goes_on_from_the_files_of_the_first(alone: dict[str, Result], tmp_path: Path) -> None:
    folder = str(tmp_path)
    for fields in ({}, {"max_num_batched_tokens": 16, "threads": 2}):
        engine = Engine(config(prefix_cache_dir=folder, **fields))
        assert run(engine, requests()) == alone
        engine.close()
    asked = requests()
    engine = Engine(config(prefix_cache_dir=folder))
    story = next(r for r in asked if len(r.prompt) > 50 and r.params.prompt_logprobs is None)
    assert run(engine, [story]) == {story.request_id: alone[story.request_id]}
    assert engine.stats().cached_tokens == (len(story.prompt) - 1) // 16 * 16
    engine.close()


@needs_stories
def test_the_times_that_steps_take_change_nothing(alone: dict[str, Result]) -> None:
    rng = random.Random(2)
    engine = Engine(config())
    engine.scheduler.pace = Pace(lambda: rng.random())
    assert run(engine, requests()) == alone
    engine.close()


def test_a_long_prompt_and_the_streams_beside_it_get_what_they_get_alone(tmp_path: Path) -> None:
    llama = next(model for model in MODELS if model.gguf_arch == "llama")
    long = dataclasses.replace(llama, config=llama.config | {"max_position_embeddings": 8192})
    model = str(long.write_gguf(tmp_path / "long.gguf"))
    rng = random.Random(3)
    mix = [
        request([rng.randrange(VOCAB) for _ in range(length)], f"{length}", max_tokens=tokens, seed=length, logprobs=2)
        for length, tokens in ((5, 600), (60, 400), (90, 300), (8000, 8))
    ]
    engine = Engine(config(model=model, max_model_len=8192, enable_prefix_caching=False))
    alone: dict[str, Result] = {}
    for r in mix:
        alone |= run(engine, [r])
    engine.scheduler.pace = Pace(lambda: rng.random())
    assert run(engine, mix) == alone
    engine.close()
