"""Beam search over a model whose next token depends on the last one only."""

import itertools

import numpy as np
import pytest

from tests.api.scripted import EOS, ScriptedClient
from trivet import LLM, BeamSearchParams, SamplingParams
from trivet.engine.request import TokenChunk, TokenLogprob
from trivet.errors import RequestError

TOKENS = [*b"abc", EOS]
TABLE = np.log(np.random.default_rng(5).dirichlet(np.ones(len(TOKENS)), size=len(TOKENS)))
"""TABLE[i, j]: the log-probability of token j after token i."""


class MarkovClient(ScriptedClient):
    async def _play(self, request, script, queue):
        row = dict(zip(TOKENS, TABLE[TOKENS.index(request.prompt[-1])].tolist(), strict=True))
        ranked = sorted(row.items(), key=lambda item: -item[1])
        token, logprob = ranked[0]
        entry = TokenLogprob(token, logprob, 1, ranked[: request.params.logprobs])
        queue.put_nowait(
            TokenChunk(request_id=request.request_id, tokens=[token], logprobs=[entry], finish_reason="length")
        )


@pytest.fixture
def llm(model, monkeypatch):
    client = MarkovClient([], max_model_len=12, limit=10**6)
    monkeypatch.setattr("trivet.engine.inprocess.InProcessClient", lambda config: client)
    with LLM(model) as llm:
        yield llm


def likelihood(tokens):
    steps = itertools.pairwise(TOKENS.index(token) for token in tokens)
    return sum(TABLE[first, second] for first, second in steps)


def exhaustive(length, ignore_eos, penalty):
    """All sequences after "a", the best first: their tokens."""
    found = []
    for tail in itertools.product(TOKENS, repeat=length):
        ends = [i for i, token in enumerate(tail, 1) if token == EOS and not ignore_eos]
        found.append((ord("a"), *tail[: min(ends, default=length)]))

    def score(tokens):
        return likelihood(tokens) / (len(tokens) - (tokens[-1] == EOS)) ** penalty

    return [list(tokens) for tokens in sorted(set(found), key=score, reverse=True)]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_wide_enough_it_finds_the_best_of_all(llm, ignore_eos, penalty):
    params = BeamSearchParams(64, 3, ignore_eos=ignore_eos, length_penalty=penalty)
    [output] = llm.beam_search([[ord("a")]], params)
    expected = exhaustive(3, ignore_eos, penalty)[:64]
    assert [beam.tokens for beam in output.sequences] == expected
    for beam in output.sequences:
        assert beam.cum_logprob == pytest.approx(likelihood(beam.tokens))
        assert beam.finish_reason == ("stop" if beam.tokens[-1] == EOS and not ignore_eos else "length")
        chosen = [entry[token].logprob for entry, token in zip(beam.logprobs, beam.tokens[1:], strict=True)]
        assert sum(chosen) == pytest.approx(beam.cum_logprob)


def test_the_narrowest_is_greedy(llm):
    [output] = llm.beam_search([ord("b")], BeamSearchParams(1, 4, ignore_eos=True, length_penalty=0.0))
    tokens = [ord("b")]
    for _ in range(4):
        tokens.append(TOKENS[int(TABLE[TOKENS.index(tokens[-1])].argmax())])
    assert [beam.tokens for beam in output.sequences] == [tokens]


def test_texts_and_forms_of_prompts(llm):
    prompts = [{"prompt_token_ids": [ord("a")]}, [ord("b")], {"prompt": "c"}]
    outputs = llm.beam_search(prompts, BeamSearchParams(2, 2), concurrency_limit=1, use_tqdm=True)
    assert [beam.text[0] for output in outputs for beam in output.sequences] == list("aabbcc")
    [kept] = llm.beam_search([ord("a")], BeamSearchParams(64, 1, skip_special_tokens=False))
    assert "a</s>" in [beam.text for beam in kept.sequences]


def test_the_context_ends_it(llm):
    [output] = llm.beam_search([[ord("a")] * 10], BeamSearchParams(2, 50, ignore_eos=True))
    assert [len(beam.tokens) for beam in output.sequences] == [12, 12]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_width": 0}, "beam_width must be a whole number, at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs is not supported by beam search"),
    ],
)
def test_bad_parameters(given, message):
    with pytest.raises(RequestError, match=message):
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 3, **given})


def test_adapters_are_refused(llm):
    with pytest.raises(RequestError, match="lora_request is not supported"):
        llm.beam_search(["a"], BeamSearchParams(1, 1), lora_request="adapter")
    assert llm.generate([ord("a")], SamplingParams(max_tokens=1))[0].finished
