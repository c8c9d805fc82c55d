"""What `SamplingParams` has for scripts written for vLLM."""

import dataclasses

import msgspec
import pytest

from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams
from trivet.sampling.vllm_params import (
    UNAVAILABLE,
    BeamSearchParams,
    RepetitionDetectionParams,
    RequestOutputKind,
    SamplingType,
    StructuredOutputsParams,
)


def test_an_unknown_keyword_gets_the_nearest():
    with pytest.raises(TypeError, match=r"^SamplingParams has no argument 'max_token'; did you mean 'max_tokens'\?$"):
        SamplingParams(max_token=3)
    with pytest.raises(TypeError, match=r"^SamplingParams has no argument 'zzz'$"):
        SamplingParams(zzz=3)
    with pytest.raises(
        TypeError, match=r"^BeamSearchParams has no argument 'lenght_penalty'; did you mean 'length_pen"
    ):
        BeamSearchParams(2, 3, lenght_penalty=1.0)


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_what_is_not_supported_is_refused_unless_it_asks_for_nothing(name):
    for harmless in UNAVAILABLE[name]:
        SamplingParams(**{name: harmless})
    with pytest.raises(RequestError, match=f"{name} is not supported, got 7") as error:
        SamplingParams(**{name: 7})
    assert error.value.parameter == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stream_interval": 0}, "stream_interval must be a whole number, at least 1, got 0"),
        ({"output_kind": 1}, "output_kind must be a RequestOutputKind, got 1"),
        ({"repetition_detection": {"min_count": 3}}, "repetition_detection must be RepetitionDetectionParams"),
        ({"structured_outputs": StructuredOutputsParams(regex="a+")}, "structured_outputs is not supported"),
    ],
)
def test_bad_values(given, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**given)


def test_from_optional():
    nothing = dict.fromkeys(name for name in SamplingParams.__struct_fields__ if name != "max_tokens")
    assert SamplingParams.from_optional(**nothing) == SamplingParams()
    params = SamplingParams.from_optional(max_tokens=None, n=3, logit_bias={"5": 200, 6: -1.5})
    assert (params.max_tokens, params.n, params.logit_bias) == (None, 3, {5: 100.0, 6: -1.5})
    for bias in ({"x": 1}, {1: "y"}):
        with pytest.raises(RequestError, match="logit_bias must be a map"):
            SamplingParams.from_optional(logit_bias=bias)


def test_a_clone_is_a_copy():
    params = SamplingParams(n=2, stop=["a"], logit_bias={1: 2.0}, output_kind=RequestOutputKind.DELTA)
    copy = params.clone()
    assert copy == params
    copy.stop.append("b")
    copy.logit_bias[3] = 1.0
    assert (params.stop, params.logit_bias) == (["a"], {1: 2.0})


@pytest.mark.parametrize(
    ("given", "kind"),
    [({"temperature": 0}, SamplingType.GREEDY), ({}, SamplingType.RANDOM), ({"seed": 1}, SamplingType.RANDOM_SEED)],
)
def test_types_of_sampling(given, kind):
    assert SamplingParams(**given).sampling_type is kind


def test_its_repr_shows_what_was_given():
    assert repr(SamplingParams(temperature=0.5, n=2)) == "SamplingParams(n=2, temperature=0.5)"


def test_it_crosses_the_border_to_an_engine():
    params = SamplingParams(temperature=0.5, output_kind=RequestOutputKind.FINAL_ONLY)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choice": ["b"]}, {"whitespace_pattern": " "}])
def test_exactly_one_grammar(given):
    with pytest.raises(RequestError, match="give exactly one of json, regex"):
        StructuredOutputsParams(**given)
    assert dataclasses.asdict(StructuredOutputsParams(json_object=True))["json_object"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ((1, 2, 3), "max_pattern_size must be at least min_pattern_size, and both at least 0, got 1 and 2"),
        ((-1, -1, 3), "both at least 0, got -1 and -1"),
        ((3, 0, 1), "min_count must be at least 2, got 1"),
    ],
)
def test_bad_repetitions(rule, message):
    with pytest.raises(RequestError, match=message):
        RepetitionDetectionParams(*rule)
