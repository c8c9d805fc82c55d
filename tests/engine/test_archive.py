"""Blocks kept in files: an engine that is started later has them, if they are whole and its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.fake import FakeRuntime, Options, Result, plain, request
from tests.engine.test_engine import MAX_LEN, engine, on_all_runtimes, prompts, run
from trivet.engine.archive import DIGEST_BYTES
from trivet.engine.engine import Engine
from trivet.engine.messages import StoreCommand
from trivet.engine.request import EngineRequest
from trivet.errors import EngineError

PROMPT = list(range(1, 23))
BLOCK = 4 * 8 + DIGEST_BYTES
"""Bytes of a file: a block of 4 tokens."""


def start(folder: Path, options: Options | None = None, **config: object) -> Engine:
    return engine(options, prefix_cache_dir=str(folder), **config)


def served(folder: Path, *requests: EngineRequest, options: Options | None = None, **config: object) -> int:
    """The cached tokens of an engine that serves these and ends; what comes of them is right."""
    e = start(folder, options, **config)
    results = run(e, *requests)
    e.close()
    for r in requests:
        assert results[r.request_id] == plain(r, MAX_LEN)
    return e.stats().cached_tokens


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"), key=lambda path: path.stat().st_mtime_ns)


def test_a_new_engine_computes_nothing_again(tmp_path: Path) -> None:
    r = request(PROMPT, max_tokens=20, logprobs=0, mirostat=2)
    assert served(tmp_path / "new/cache", r) == 0
    assert len(files(tmp_path / "new/cache")) == 41 // 4
    e = start(tmp_path / "new/cache")
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 20
    assert sum(len(plan.token_ids) for plan in e.runtime.plans) == 2 + 19
    again = [*PROMPT, *plain(r, MAX_LEN).tokens, 5]
    assert served(tmp_path / "new/cache", request(again, max_tokens=1)) == 40


@pytest.mark.parametrize("written", [False, True], ids=["while it is written", "by a later engine"])
def test_what_is_dropped_is_forgotten(tmp_path: Path, written: bool) -> None:
    e = start(tmp_path)
    run(e, request(PROMPT, max_tokens=1))
    if written:
        e.close()
        e = start(tmp_path)
    assert e.store(StoreCommand(0, "drop", PROMPT)).tokens == PROMPT[:20]
    e.close()
    assert not files(tmp_path)


@on_all_runtimes
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=st.lists(st.lists(st.tuples(prompts, st.sampled_from(["", "salt"])), min_size=1, max_size=5), max_size=4),
    limit=st.integers(0, 30),
    spare=st.integers(0, 8),
)
def test_whatever_is_kept_the_tokens_are_the_same(
    tmp_path_factory, runtime: type[FakeRuntime], lives, limit: int, spare: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for life in lives:
        mix = [
            request(prompt, f"{i}", cache_salt=salt, max_tokens=9, logprobs=0) for i, (prompt, salt) in enumerate(life)
        ]
        blocks = MAX_LEN // 4 + spare
        config = {"prefix_cache_size": limit * BLOCK, "num_blocks": blocks, "max_num_batched_tokens": 8}
        served(folder, *mix, runtime=runtime, **config)
        assert len(files(folder)) <= limit


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "other"])
@pytest.mark.parametrize("which", [0, 2, 4])
def test_a_damaged_file_is_dropped_and_named(tmp_path: Path, caplog, damage: str, which: int) -> None:
    r = request(PROMPT, max_tokens=1)
    served(tmp_path, r)
    path = files(tmp_path)[which]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    elif damage == "other":  # a whole file, of another key
        content[:] = files(tmp_path)[which - 1].read_bytes()
    path.write_bytes({"cut": content[:-1], "longer": content + b"x", "empty": b""}.get(damage, content))
    assert served(tmp_path, r) == 4 * which
    assert f"drops {path}: it is damaged" in caplog.text
    assert served(tmp_path, r) == 20


def test_files_dropped_while_one_is_read_are_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = request(PROMPT, max_tokens=1)
    served(tmp_path, r)
    e = start(tmp_path)
    write_block = e.runtime.write_block

    def drop_all(block: int, data: np.ndarray) -> None:
        e._archive._files.clear()
        write_block(block, data)

    monkeypatch.setattr(e.runtime, "write_block", drop_all)
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 4


def test_a_file_that_goes_is_no_harm(tmp_path: Path) -> None:
    r = request(PROMPT, max_tokens=1)
    served(tmp_path, r)
    e = start(tmp_path)
    files(tmp_path)[1].unlink()
    assert run(e, r) == {"r": plain(r, MAX_LEN)}
    assert e.stats().cached_tokens == 4


def test_other_models_and_salts_share_nothing(tmp_path: Path) -> None:
    r = request(PROMPT, max_tokens=1)
    served(tmp_path, r)
    assert served(tmp_path, r, options=Options(weights="others")) == 0
    assert served(tmp_path, r, block_size=2) == 0
    assert served(tmp_path, request(PROMPT, max_tokens=1, cache_salt="s")) == 0
    assert served(tmp_path, r, enable_prefix_caching=False) == 0
    assert served(tmp_path, r) == 20


def test_the_least_recently_used_goes_first_over_all_models(tmp_path: Path) -> None:
    first, second = ([request([i] * 9, max_tokens=1)] for i in (1, 2))
    limit = {"prefix_cache_size": 4 * BLOCK}
    served(tmp_path, *first, **limit)
    served(tmp_path, *second, options=Options(weights="others"), **limit)
    assert served(tmp_path, *first, **limit) == 8
    served(tmp_path, request([3] * 9, max_tokens=1), **limit)
    assert served(tmp_path, *first, **limit) == 8
    assert served(tmp_path, *second, options=Options(weights="others"), **limit) == 0


def test_what_cannot_be_written_is_told_and_no_harm(tmp_path: Path, caplog, monkeypatch) -> None:
    def fail(self: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    assert served(tmp_path, request(PROMPT, max_tokens=1)) == 0
    assert "No space left on device" in caplog.text
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_used_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=f"cannot be kept in {tmp_path / 'file'}: Not a directory"):
        start(tmp_path / "file")


def test_leftovers_of_a_killed_engine_are_cleared(tmp_path: Path) -> None:
    served(tmp_path, request(PROMPT, max_tokens=1))
    leftover = files(tmp_path)[0].with_suffix(".part")
    leftover.write_bytes(b"half")
    start(tmp_path).close()
    assert not leftover.exists()


def test_restoring_stops_in_time_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    """Streams that run meanwhile get a token a step."""
    long, short = request(list(range(1, 50)), "long", max_tokens=1), request([7], "short", max_tokens=40)
    served(tmp_path, long)
    monkeypatch.setattr("trivet.engine.scheduler.RESTORE_SECONDS", -1.0)
    e = start(tmp_path)
    results = {"short": Result(), "long": Result()}
    e.add(short)
    while e.busy:
        chunks = e.step()
        assert "short" in [chunk.request_id for chunk in chunks]
        for chunk in chunks:
            results[chunk.request_id].add(chunk)
        if e.stats().steps == 1:
            e.add(long)
        e.scheduler.check_integrity()
        if len(results["short"].tokens) == 10:
            assert results["long"].tokens == []
    assert results == {r.request_id: plain(r, MAX_LEN) for r in (short, long)}
    assert e.stats().cached_tokens == 48


def test_restored_blocks_count_once_whatever_is_preempted(tmp_path: Path) -> None:
    long, short = request(list(range(1, 50)), "long", max_tokens=1), request([7], "short", max_tokens=40)
    served(tmp_path, request(long.prompt[:25], max_tokens=1))
    e = start(tmp_path, num_blocks=16, max_num_batched_tokens=2)
    e.add(short)
    e.step()
    e.add(long)
    [last] = [
        chunk for chunk in iter(lambda: e.step() if e.busy else None, None) for chunk in chunk if chunk.preemptions
    ]
    assert (last.request_id, last.cached_tokens, e.stats().cached_tokens) == ("long", 24, 24)


def test_blocks_wait_to_be_written_only_so_long_as_there_are_few(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("trivet.engine.archive.UNWRITTEN", 0)
    assert served(tmp_path, request(PROMPT, max_tokens=1)) == 0
    assert files(tmp_path) == []
