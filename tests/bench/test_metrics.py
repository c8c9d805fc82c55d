import json
from itertools import accumulate
from pathlib import Path

import pytest

from trivet.bench.client import Failure
from trivet.bench.load import Record
from trivet.bench.metrics import details, failures, meets, parse_slo, summarise
from trivet.errors import TrivetError

# Seconds. Sent at 100; tokens 1 s later, then after 0.5 s and 0.25 s; two tokens came in the last event.
FIRST = Record(100.0, [101.0, 101.5, 101.75], prompt_tokens=10, output_tokens=4)
# Sent at 100.5, its only token after 2 s.
SECOND = Record(100.5, [102.5], prompt_tokens=20, output_tokens=1)
# Sent at 103, tokens after 0.5 s and 0.5 s.
THIRD = Record(103.0, [103.5, 104.0], prompt_tokens=30, output_tokens=2)
LOST = Record(100.0, [101.0], prompt_tokens=40, output_tokens=9, failure=Failure("disconnected", "gone"))
RECORDS = [FIRST, SECOND, LOST, THIRD]


def test_a_scripted_run_has_these_numbers_exactly():
    summary = summarise(RECORDS, 5.0, {"ttft": 1000.0})
    expected = {
        "duration": 5.0,
        "completed": 3,
        "failed": 1,
        "total_input_tokens": 60,
        "total_output_tokens": 7,
        "request_throughput": 3 / 5,
        "request_goodput": 2 / 5,
        "output_throughput": 7 / 5,
        "total_token_throughput": 67 / 5,
        # Events in the seconds from 100 on: 0, 3, 1, 1, 1. Running: 1 and 2, 1 and 2, 2, 3, 3.
        "max_output_tokens_per_s": 3.0,
        "max_concurrent_requests": 2,
        "mean_ttft_ms": 3500 / 3,
        "median_ttft_ms": 1000.0,
        "p50_ttft_ms": 1000.0,
        "p90_ttft_ms": 1800.0,
        "p99_ttft_ms": 1980.0,
        "max_ttft_ms": 2000.0,
        "mean_itl_ms": 1250 / 3,
        "p50_itl_ms": 500.0,
        "max_itl_ms": 500.0,
        # 0.75 s for 3 more tokens; 0.5 s for one. A single token has none.
        "mean_tpot_ms": 375.0,
        "p90_tpot_ms": 475.0,
        "std_tpot_ms": 125.0,
        "mean_e2el_ms": 4750 / 3,
        "p50_e2el_ms": 1750.0,
        "p95_e2el_ms": 1975.0,
        "max_e2el_ms": 2000.0,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)


def test_numbers_are_vllms():
    """`vllm bench serve` and `summarise` make the same of the same times, but for rounding."""
    theirs = json.loads((Path(__file__).parents[1] / "oracles/bench_serve.json").read_text())
    columns = ("start_times", "ttfts", "itls", "input_lens", "output_lens")
    records = [
        Record(start, list(accumulate(gaps, initial=start + ttft)), prompt_tokens, output_tokens)
        for start, ttft, gaps, prompt_tokens, output_tokens in zip(*map(theirs.get, columns), strict=True)
    ]
    summary = summarise(records, theirs["duration"], theirs["goodput"])
    ours = {**summary, **details(records)}
    shared = (ours.keys() & theirs.keys()) - {"itls"}
    assert len(shared) == 44
    for name in shared:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-9), name
    assert 0 < theirs["request_goodput"] < theirs["request_throughput"]


def test_nothing_that_succeeded_has_no_numbers():
    summary = summarise([LOST], 1.0, {})
    assert (summary["completed"], summary["failed"], summary["request_goodput"]) == (0, 1, None)
    assert summary["mean_ttft_ms"] is summary["p99_itl_ms"] is summary["max_tpot_ms"] is summary["std_e2el_ms"] is None
    json.dumps({**summary, **details([LOST])}, allow_nan=False)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ("ttft=1000", [True, False, True]),
        ("ttft=999", [False, False, True]),
        ("itl=500", [True, True, True]),
        ("itl=499", [False, True, False]),
        ("tpot=250", [True, True, False]),
        ("e2e=1750", [True, False, True]),
        ("e2el=1750", [True, False, True]),
        ("ttft=1000, tpot=499.9", [True, False, False]),
    ],
)
def test_a_request_is_good_within_all_limits(slo, good):
    assert [meets(record, parse_slo(slo)) for record in (FIRST, SECOND, THIRD)] == good


@pytest.mark.parametrize(
    "text", ["ttft", "ttft=", "ttft=x", "ttft=0", "ttft=-1", "ttft=nan", "speed=1", "ttft=1,,", ","]
)
def test_limits_that_are_none(text):
    with pytest.raises(TrivetError, match="--slo must be like"):
        parse_slo(text)


def test_failures_are_counted_by_kind_with_the_first_of_each():
    kinds = [("a", "1"), ("b", "2"), ("b", "3"), ("b", "4"), ("a", "5")]
    records = [Record(0.0, failure=Failure(*each)) for each in kinds]
    assert list(failures([*records, FIRST]).items()) == [("b", (3, "2")), ("a", (2, "1"))]
    assert failures([FIRST]) == {}


def test_details_have_a_row_for_each_request():
    found = details(RECORDS)
    assert found["ttfts"] == [1.0, 2.0, 1.0, 0.5]
    assert found["itls"] == [[0.5, 0.25], [], [], [0.5]]
    assert found["output_lens"] == [4, 1, 0, 2]
    assert found["errors"] == ["", "", "disconnected: gone", ""]
