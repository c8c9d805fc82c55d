"""Cached blocks in files: what is loaded is what was computed, and what is not of this engine stays out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine import test_real_model as real
from tests.engine.fake import Options, plain, request
from tests.engine.test_clients import Start, collect, starter
from tests.engine.test_engine import MAX_LEN, engine, run
from trivet.engine.engine import Engine
from trivet.engine.messages import StoreCommand, Stored
from trivet.engine.process import ProcessClient
from trivet.errors import EngineError, RequestError

PROMPT = list(range(1, 23))
OTHER = [*PROMPT[:13], 90, 91]


def store(e: Engine, action: str, path: Path | str = "", tokens: list[int] = PROMPT, **fields: object) -> Stored:
    answer = e.store(StoreCommand(1, action, tokens if action != "load" else [], path=str(path), **fields))
    e.scheduler.check_integrity()
    return answer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    e = engine()
    run(e, request(PROMPT, max_tokens=3))
    path = tmp_path / "a"
    answer = store(e, "save", path)
    assert (answer.error, answer.tokens, answer.num_bytes) == (None, PROMPT[:20], path.stat().st_size)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    return path


@pytest.mark.parametrize("prompt", [PROMPT, OTHER, PROMPT[:8], [50]], ids=len)
def test_a_new_engine_goes_on_from_the_file(saved: Path, prompt: list[int]) -> None:
    e = engine()
    assert store(e, "load", saved).tokens == PROMPT[:20]
    assert e.stats().blocks_used == 0
    r = request(prompt, max_tokens=9, logprobs=0)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    shared = 13 if prompt == OTHER else 0 if prompt == [50] else len(prompt) - 1
    assert e.stats().cached_tokens == shared // 4 * 4


def test_generated_tokens_are_saved(tmp_path: Path) -> None:
    e = engine()
    made = run(e, request(PROMPT, max_tokens=30))["r"].tokens
    assert len(store(e, "save", tmp_path / "a", PROMPT + made).tokens) == 48
    fresh = engine()
    store(fresh, "load", tmp_path / "a")
    r = request([*PROMPT, *made, 3], max_tokens=4)
    assert run(fresh, r) == {"r": plain(r, MAX_LEN)}
    assert fresh.stats().cached_tokens == 48


def test_what_is_there_is_kept_and_the_rest_added(saved: Path) -> None:
    e = engine(num_blocks=16)
    run(e, request(PROMPT[:9], max_tokens=1))
    for _ in range(2):
        assert store(e, "load", saved).error is None
    assert e.scheduler.pool.available == 16
    r = request(PROMPT, max_tokens=5)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 20


def test_a_file_may_not_push_out_running_sequences(saved: Path) -> None:
    e = engine(num_blocks=16, max_model_len=60)
    r = request([70] * 45, max_tokens=5)
    e.add(r)
    e.step()
    before = e.scheduler.pool.available
    assert "it has room for 4 now" in (store(e, "load", saved).error or "")
    assert e.scheduler.pool.available == before
    while e.busy:
        e.step()
    assert store(e, "load", saved).error is None


def test_drop(saved: Path) -> None:
    e = engine()
    run(e, request(PROMPT, max_tokens=2))
    assert store(e, "drop").tokens == PROMPT[:20]
    assert store(e, "drop").tokens == []
    r = request(PROMPT, max_tokens=2)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 0


def test_blocks_in_use_are_dropped_when_they_are_free() -> None:
    e = engine()
    e.add(request(PROMPT, max_tokens=8))
    while e.stats().generated_tokens < 2:
        e.step()
    assert store(e, "drop").tokens == PROMPT[:20]
    while e.busy:
        e.step()
        e.scheduler.check_integrity()
    assert store(e, "drop").tokens == []


def test_salts_are_apart(tmp_path: Path) -> None:
    e = engine()
    run(e, request(PROMPT, max_tokens=1, cache_salt="x"))
    assert store(e, "save", tmp_path / "a").tokens == []
    assert store(e, "save", tmp_path / "a", cache_salt="x").tokens == PROMPT[:20]


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        (Options(weights="other"), {}, "its weights is hash, and here other"),
        (None, {"block_size": 8}, "its block size is 4, and here 8"),
        (None, {"enable_prefix_caching": False}, "prefix caching is off"),
    ],
    ids=str,
)
def test_files_of_other_engines(saved: Path, options: Options | None, fields: dict, message: str) -> None:
    assert message in (store(engine(options, **fields), "load", saved).error or "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        *(("nothing", "No such file"), (".", "Is a directory"), ("a/b", "Not a directory")),
        *(("x\0", "embedded null"), ("x\0/y", "embedded null")),
    ],
)
def test_files_that_cannot_be_had(saved: Path, path: str, message: str) -> None:
    e = engine()
    assert message in (store(e, "load", saved.parent / path).error or "")
    if path != "nothing":
        assert store(e, "save", saved.parent / path).error
    assert saved.is_file()


@pytest.mark.parametrize(("action", "method"), [("save", "read_block"), ("load", "write_block")])
def test_what_goes_wrong_is_that_commands_error(
    saved: Path, monkeypatch: pytest.MonkeyPatch, action: str, method: str
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("none left")

    e = engine()
    run(e, request(PROMPT[:12], max_tokens=1))
    with monkeypatch.context() as patch:
        patch.setattr(e.runtime, method, fail)
        assert store(e, action, saved).error == f"could not {action} cached blocks: none left"
    assert e.stats().blocks_used == 0
    assert store(e, "load", saved).error is None


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(saved: Path, data: st.DataObject) -> None:
    original = saved.read_bytes()
    damaged = bytearray(original)
    at = data.draw(st.integers(0, len(original) - 1), "at")
    match data.draw(st.sampled_from(["flip", "cut", "insert"]), "how"):
        case "flip":
            damaged[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del damaged[at:]
        case "insert":
            damaged[at:at] = b"\0" * data.draw(st.integers(1, 9))
    path = saved.with_name("damaged")
    path.write_bytes(damaged)
    e = engine()
    assert store(e, "load", path).error
    assert store(e, "load", saved).error is None


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_clients(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start: Start = starter(kind, monkeypatch)
    r = request([*range(40)], max_tokens=5)
    path = str(tmp_path / "a")
    async with start() as c:
        expected = await collect(c, r)
        answer = await c.store(StoreCommand(0, "save", r.prompt, path=path))
        assert answer.tokens == r.prompt[:32]
        with pytest.raises(RequestError, match="cannot write"):
            await c.store(StoreCommand(0, "save", r.prompt, path=str(tmp_path / "no" / "a")))
    with pytest.raises(EngineError):
        await c.store(StoreCommand(0, "drop", r.prompt))
    async with start() as c:
        assert (await c.store(StoreCommand(0, "load", path=path))).tokens == r.prompt[:32]
        assert await collect(c, r) == expected
        assert c.stats().cached_tokens == 32


async def test_whoever_waits_is_told_that_the_process_died(monkeypatch: pytest.MonkeyPatch) -> None:
    async with starter("process", monkeypatch)(Options(crash=66, step_seconds=0.5)) as c:
        crashing = asyncio.create_task(collect(c, request([66], max_tokens=3)))
        await asyncio.sleep(0.1)
        with pytest.raises(EngineError, match="died of signal 9"):
            await c.store(StoreCommand(0, "drop", PROMPT))
        assert (await crashing).finish_reason == "error"


@pytest.mark.skipif(not real.MODEL.exists(), reason="../shared/models/stories260k is not there")
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
async def test_a_real_model_goes_on_as_if_it_had_never_stopped(tmp_path: Path, dtype: str) -> None:
    story = [*real.STORY, *real.NEXT] * 2
    going_on = request([*story, 300], max_tokens=30, temperature=1.0, logprobs=3)
    config = real.config(kv_cache_dtype=dtype)
    cold = Engine(config)
    expected = real.run(cold, [going_on])
    answer = cold.store(StoreCommand(0, "save", story, path=str(tmp_path / "a")))
    assert answer.tokens == story[:48]
    client = ProcessClient(config)
    await client.start()
    try:
        assert (await client.store(StoreCommand(0, "load", path=str(tmp_path / "a")))).tokens == story[:48]
        assert {"r": await collect(client, going_on)} == expected
        assert client.stats().cached_tokens == 48
    finally:
        await client.close()
    [other] = [name for name in ("f16", "bf16") if name != dtype][:1]
    refusal = Engine(real.config(kv_cache_dtype=other)).store(StoreCommand(0, "load", path=str(tmp_path / "a")))
    assert f"its cache type is {dtype}, and here {other}" in (refusal.error or "")
    cold.close()
