"""Stop strings, against a search of the whole text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.text.stop import StopStrings

chunks = st.lists(st.text("abc", max_size=4), max_size=12)
stop_strings = st.lists(st.text("abc", min_size=1, max_size=5), max_size=5)


@given(stop_strings, chunks, st.booleans())
def test_any_chunks(stops: list[str], chunks: list[str], include: bool) -> None:
    text = "".join(chunks)
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    expected, matched = text, None
    if ends:
        end, _, matched = min(ends)
        expected = text[: end if include else end - len(matched)]
    stream = StopStrings(stops, include)
    out = seen = ""
    for chunk in chunks:
        out, seen = out + stream.push(chunk), seen + chunk
        if stream.matched is None:
            tails = [n for n in range(len(seen) + 1) if any(stop.startswith(seen[len(seen) - n :]) for stop in stops)]
            held = 0 if include else max(tails, default=0)
            assert out == seen[: len(seen) - held], "neither more nor less is held back than must be"
    assert (out + stream.flush(), stream.matched) == (expected, matched)


@given(stop_strings, st.lists(st.text("abc", min_size=1, max_size=4), max_size=12))
def test_only_where_chunks_end(stops: list[str], chunks: list[str]) -> None:
    stream = StopStrings(stops, include=True, at_ends=True)
    out = seen = ""
    for chunk in chunks:
        found = [stop for stop in stops if seen.endswith(stop)]
        assert stream.matched == max(found, key=len, default=None)
        if not found:
            out, seen = out + stream.push(chunk), seen + chunk
            assert out == seen


@given(stop_strings, chunks, chunks)
def test_a_flush_begins_anew(stops: list[str], before: list[str], after: list[str]) -> None:
    stream = StopStrings(stops)
    out = "".join(map(stream.push, before)) + stream.flush()
    if stream.matched is None:
        assert out == "".join(before)
        fresh = StopStrings(stops)
        assert list(map(stream.push, after)) == list(map(fresh.push, after))


def test_nothing_comes_after_a_match() -> None:
    stream = StopStrings(["stop"])
    assert [stream.push(text) for text in ("a st", "op b", "c")] == ["a ", "", ""]
    assert (stream.matched, stream.flush()) == ("stop", "")


@pytest.mark.parametrize("stops", [[""], ["a", ""]])
def test_empty_stop_strings(stops: list[str]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopStrings(stops)


@pytest.mark.parametrize(
    "stops",
    [
        [f"{i} stop string" for i in range(10_000)],
        ["a" * n + "b" for n in range(1, 1500)],
        ["a" * 100_000 + "b"],
        [f"{'a' * 50}{i:05}" for i in range(10_000)],
    ],
)
def test_many_and_long_stop_strings_are_quick(stops: list[str]) -> None:
    start = time.process_time()
    stream = StopStrings(stops)
    for _ in range(1000):
        assert len(stream.push("a" * 50)) <= 50
    assert stream.matched is None
    assert time.process_time() - start < 5
