import itertools
import json
import math

import numpy as np
import pytest

from tests.api.scripted import write_byte_tokenizer
from trivet.bench.prompts import WORDS, from_tokenizer, from_words
from trivet.bench.workload import LIMITS, Shape, azure_trace, fixed, from_file, poisson, schedule, sharegpt_like
from trivet.errors import TrivetError
from trivet.text.tokenizer import Tokenizer

TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:50.5000000,396,109
2023-11-16 18:15:46.0000000,374,44
2023-11-16 18:15:51.2500000,879,55
"""


def rng(seed=7):
    return np.random.default_rng(seed)


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "t.csv").write_text(TRACE)
    return tmp_path / "t.csv"


def test_arrivals_are_random_times_at_the_rate():
    times = poisson(rng(), 20.0, 5000)
    gaps = np.diff(times)
    assert times[-1] == pytest.approx(250.0)
    assert gaps.min() > 0
    # Of exponential gaps, mean and spread are the same, and 1/e are longer than the mean.
    assert gaps.mean() == pytest.approx(0.05, rel=0.01)
    assert gaps.std() == pytest.approx(0.05, rel=0.05)
    assert (gaps > 0.05).mean() == pytest.approx(1 / math.e, abs=0.03)


def test_a_seed_decides_all():
    def drawn(seed):
        random = rng(seed)
        plan = schedule(sharegpt_like(random), random, requests=50, rate=3.0)
        make = from_words(random, 1.0, 1.3)
        return plan, [make(shape.input_len) for shape, _ in plan]

    assert drawn(1) == drawn(1)
    assert drawn(1)[0] != drawn(2)[0]
    assert not set(drawn(1)[1]) & set(drawn(2)[1])


def test_lengths_like_sharegpts():
    shapes = list(itertools.islice(sharegpt_like(rng()), 10000))
    inputs, outputs = np.array([(shape.input_len, shape.output_len) for shape in shapes]).T
    for lengths, mean, median in ((inputs, 161, 61), (outputs, 338, 225)):
        assert LIMITS[0] <= lengths.min()
        assert lengths.max() <= LIMITS[1]
        # The cut takes some of the tail's mean.
        assert 0.85 * mean < lengths.mean() < mean
        assert np.median(lengths) == pytest.approx(median, rel=0.05)
    small = list(itertools.islice(sharegpt_like(rng(), 1 / 16), 2000))
    assert min(shape.input_len for shape in small) == 1
    assert max(shape.output_len for shape in small) == LIMITS[1] / 16


def test_a_trace_has_its_lengths_and_times(trace):
    assert azure_trace(trace) == [Shape(374, 44, 0.0), Shape(396, 109, 4.5), Shape(879, 55, 5.25)]
    assert azure_trace(trace, 0.1, 2.0) == [Shape(37, 4, 0.0), Shape(40, 11, 2.25), Shape(88, 6, 2.625)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column ContextTokens, GeneratedTokens, TIMESTAMP"),
        ("", "no column"),
        (TRACE + "yesterday,1,2\n", "line 5: Invalid isoformat"),
        (TRACE + "2023-11-16 18:15:50,x,2\n", "line 5: invalid literal"),
        (TRACE + "2023-11-16 18:15:50\n", "line 5: "),
    ],
)
def test_a_damaged_trace_says_where(trace, text, message):
    trace.write_text(text)
    with pytest.raises(TrivetError, match=message):
        azure_trace(trace)


def test_a_file_of_prompts(tmp_path):
    lines = [{"prompt": "a\u2028b"}, {"prompt": "c", "output_tokens": 3, "more": 1}]
    path = tmp_path / "p.jsonl"
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    assert from_file(path, 9) == [Shape(0, 9, prompt="a\u2028b"), Shape(0, 3, prompt="c")]


@pytest.mark.parametrize(
    "line", ['{"text": "a"}', '{"prompt": 1}', "[1]", '{"prompt": "a"', '{"prompt": "a", "output_tokens": 0}']
)
def test_a_damaged_file_says_where(tmp_path, line):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(TrivetError, match="line 2: "):
        from_file(tmp_path / "p.jsonl", 1)


ROWS = [Shape(i, 1, arrival=i / 2) for i in range(1, 8)]


@pytest.mark.parametrize(
    ("shapes", "options", "count", "last"),
    [
        (fixed(4, 4), {}, 100, 0.0),
        (fixed(4, 4), {"requests": 7}, 7, 0.0),
        (fixed(4, 4), {"requests": 10, "rate": 2.0}, 10, 5.0),
        (fixed(4, 4), {"duration": 4.0, "rate": 2.0}, 8, 4.0),
        (fixed(4, 4), {"duration": 4.0, "requests": 7}, 7, 0.0),
        (ROWS, {}, 7, 3.5),
        (ROWS, {"requests": 2}, 2, 1.0),
        (ROWS, {"duration": 2.0}, 7, 3.5),
        (ROWS, {"concurrency": 2}, 7, 0.0),
        (ROWS, {"rate": math.inf}, 7, 0.0),
        (ROWS, {"rate": 1.0, "concurrency": 2}, 7, 7.0),
    ],
)
def test_who_is_sent_and_when(shapes, options, count, last):
    plan = schedule(shapes, rng(), **options)
    assert isinstance(plan, list)
    assert len(plan) == count
    assert plan[-1][1] == pytest.approx(last)
    assert [due for _, due in plan] == sorted(due for _, due in plan)


def test_only_time_ends_a_closed_loop():
    plan = schedule(fixed(4, 4), rng(), duration=1.0, concurrency=2)
    assert [due for _, due in itertools.islice(plan, 1000)] == [0.0] * 1000


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (fixed(4, 4), {"duration": 1.0}, "does not end a run"),
        (fixed(4, 4), {"duration": 1.0, "rate": math.inf}, "does not end a run"),
        (ROWS, {"requests": 8}, "has 7 requests, not 8"),
        ([], {}, "empty"),
    ],
)
def test_plans_that_are_none(shapes, options, message):
    with pytest.raises(TrivetError, match=message):
        schedule(shapes, rng(), **options)


@pytest.mark.parametrize("length", [1, 2, 17, 300])
def test_prompts_of_a_tokenizer_are_exact(tmp_path, length):
    write_byte_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    make = from_tokenizer(rng(), 1.0, tokenizer)
    assert {len(tokenizer.encode(make(length))) for _ in range(20)} == {max(2, length)}


def test_no_two_prompts_begin_alike(tmp_path):
    write_byte_tokenizer(tmp_path)
    for make in (from_words(rng(), 0.0, 1.0), from_tokenizer(rng(), 0.0, Tokenizer.load(tmp_path))):
        starts = [tuple(make(60)[:48]) for _ in range(300)]
        assert len(set(starts)) == 300


@pytest.mark.parametrize(("length", "words"), [(1, 1), (12, 6), (27, 13), (107, 53)])
def test_words_make_up_a_length_on_average(length, words):
    prompt = from_words(rng(), 1.0, 2.0)(length).split()
    assert len(prompt) == words
    assert set(prompt) <= set(WORDS)
