"""The offline API on a real model: the ids of other implementations, and the same tokens whatever else runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from trivet import LLM, SamplingParams

STORIES = Path(__file__).resolve().parents[3] / "shared/models/stories260k"
GGUF = str(STORIES / "stories260k.gguf")
# From Hugging Face transformers and llama.cpp.
IDS = [432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292]
IDS += [411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426]
TEXT = ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
GREEDY = SamplingParams(temperature=0, max_tokens=40)
PROMPTS = ["Once upon a time", "Lily", "The cat sat on the mat and", "One day, " * 20, "Tim and his mom " * 8]

pytestmark = pytest.mark.skipif(not STORIES.exists(), reason="../shared is absent")


@pytest.fixture(scope="module")
def llm():
    with LLM(GGUF) as llm:
        yield llm


def tokens(outputs):
    return [[sequence.token_ids for sequence in output.outputs] for output in outputs]


@pytest.fixture(
    scope="module", params=[{"temperature": 0}, {"n": 2, "seed": 7, "top_p": 0.9, "repetition_penalty": 1.2}], ids=str
)
def alone(llm, request):
    """Parameters, and what each of PROMPTS gives alone."""
    params = SamplingParams(max_tokens=30, ignore_eos=True, **request.param)
    return params, [tokens(llm.generate(prompt, params))[0] for prompt in PROMPTS]


@pytest.mark.parametrize("model", [GGUF, str(STORIES / "hf")])
def test_greedy_ids_are_those_of_others(model):
    with LLM(model=model) as llm:
        [output] = llm.generate(["Once upon a time"], GREEDY)
    assert output.prompt_token_ids == [1, 403, 407, 261, 378]
    assert output.outputs[0].token_ids == IDS
    assert output.outputs[0].text == TEXT


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"max_num_batched_tokens": 16},
        {"max_num_seqs": 2},
        {"num_gpu_blocks_override": 20, "max_model_len": 256},
        {"enable_prefix_caching": False, "threads": 1},
    ],
)
def test_a_batch_gives_what_each_gives_alone(alone, args):
    params, expected = alone
    with LLM(GGUF, **args) as llm:
        assert tokens(llm.generate(PROMPTS * 2, params)) == expected * 2


@pytest.mark.parametrize("choice", [{}, {"mirostat": 2}, {"adaptive_target": 0.3}])
def test_the_ith_of_n_is_the_one_of_seed_plus_i(llm, choice):
    params = {"temperature": 1.0, "max_tokens": 20, **choice}
    [output] = llm.generate("Once", SamplingParams(n=3, seed=11, **params))
    singles = [llm.generate("Once", SamplingParams(seed=11 + i, **params))[0].outputs[0] for i in range(3)]
    assert [sequence.token_ids for sequence in output.outputs] == [single.token_ids for single in singles]
    assert len({tuple(single.token_ids) for single in singles}) == 3


def test_bad_words_do_not_come(llm):
    [output] = llm.generate(
        "Once upon a time", SamplingParams(temperature=0, max_tokens=40, bad_words=["Lily", "ball"])
    )
    assert output.outputs[0].text.startswith(", there was a little girl named ")
    assert "Lily" not in output.outputs[0].text and "ball" not in output.outputs[0].text


def test_repetitions_end_where_they_are_discouraged(llm):
    prompt = "The cat sat. The dog ran. " * 6 + "The cat"
    plain, dry = (
        llm.generate(prompt, SamplingParams(temperature=0, max_tokens=8, dry_multiplier=m))[0].outputs[0].text
        for m in (0.0, 5.0)
    )
    assert plain != dry


@pytest.mark.parametrize("seed", [0, -1, -5, 2**63, 2**64 - 1])
def test_any_seed_will_do(llm, seed):
    [output] = llm.generate("Once", SamplingParams(seed=seed, max_tokens=3))
    assert len(output.outputs[0].token_ids) == 3


def test_what_is_streamed_is_what_is_returned(llm):
    params = SamplingParams(seed=3, max_tokens=60, stop=["mom", "dog"])
    [whole] = llm.generate("Once upon a time", params)
    assert "".join(output.outputs[0].text for output in llm.stream("Once upon a time", params)) == whole.outputs[0].text


def test_logprobs_are_the_same_for_a_prompt_as_for_output(llm):
    [output] = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=12, logprobs=3))
    [made] = output.outputs
    both = output.prompt_token_ids + made.token_ids
    [again] = llm.generate([both], SamplingParams(max_tokens=1, prompt_logprobs=3))
    assert again.prompt_logprobs[0] is None
    assert again.prompt_logprobs[-12:] == made.logprobs
    for token, entry in zip(made.token_ids, made.logprobs, strict=True):
        assert next(iter(entry)) == token
        assert [found.rank for found in entry.values()] == [1, 2, 3]
        logprobs = [found.logprob for found in entry.values()]
        assert logprobs == sorted(logprobs, reverse=True)
    own = [entry[token] for token, entry in zip(made.token_ids, made.logprobs, strict=True)]
    assert made.cumulative_logprob == sum(entry.logprob for entry in own)
    assert "".join(entry.decoded_token for entry in own) == made.text


def test_a_prompt_seen_before_is_cached_and_changes_nothing(llm):
    prompt = "Sara and Ben went to the park to " * 5
    first, second = (llm.generate(prompt, GREEDY)[0] for _ in range(2))
    assert first.num_cached_tokens < second.num_cached_tokens
    assert first.outputs[0].token_ids == second.outputs[0].token_ids


def test_stop_strings_and_min_tokens(llm):
    [output] = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=40, stop=["Lily", "park"]))
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == (TEXT[: TEXT.index("Lily")], "Lily")
    params = SamplingParams(temperature=0, max_tokens=40, stop=["Lily", "park"], min_tokens=15)
    assert llm.generate("Once upon a time", params)[0].outputs[0].text == TEXT[: TEXT.index("park")]


def test_the_context_ends_generation(llm):
    [output] = llm.generate([[1] + [403] * 500], SamplingParams(max_tokens=None, ignore_eos=True))
    assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (11, "length")


def test_chat_works_without_a_template_of_its_own(llm):
    [output] = llm.chat([{"role": "user", "content": "Hi"}], GREEDY)
    assert output.prompt.endswith("<|im_start|>assistant\n")
    assert output.outputs[0].token_ids
