import pytest

from trivet.api.prompts import generate_request, listed, within_limits
from trivet.errors import RequestError
from trivet.sampling.params import SamplingParams

PARAMS = SamplingParams(max_tokens=3)


@pytest.mark.parametrize(
    ("prompt", "plain", "text", "salt"),
    [
        ("ab", "ab", None, ""),
        ([1, 2], [1, 2], None, ""),
        ({"prompt": "ab"}, "ab", None, ""),
        ({"prompt": "ab", "cache_salt": "s", "multi_modal_data": None}, "ab", None, "s"),
        ({"prompt_token_ids": [1]}, [1], None, ""),
        ({"prompt_token_ids": [1], "prompt": "x", "cache_salt": "s"}, [1], "x", "s"),
    ],
)
def test_prompts(prompt, plain, text, salt):
    request = generate_request(prompt, PARAMS, "r", priority=2)
    assert (request.prompt, request.prompt_text, request.cache_salt) == (plain, text, salt)
    assert (request.params, request.request_id, request.priority) == (PARAMS, "r", 2)


@pytest.mark.parametrize(
    ("prompts", "count"), [("ab", 1), ([1, 2], 1), ({"prompt": "x"}, 1), (["a", [1], {"prompt": "b"}], 3), ([], 0)]
)
def test_one_or_several(prompts, count):
    assert len(listed(prompts)) == count


@pytest.mark.parametrize("prompts", [None, 3, object()])
def test_what_is_no_list_is_refused(prompts):
    with pytest.raises(RequestError, match="a prompt is text"):
        listed(prompts)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3, "a prompt is text, a list of token ids, or a dict"),
        ({}, "a prompt is text"),
        ({"prompt": 3}, "a prompt is text"),
        ([1, "a"], "a prompt is text"),
        ({"prompt_embeds": [[0.5]]}, "a prompt's 'prompt_embeds' is not supported"),
        ({"prompt": "x", "multi_modal_data": {"image": "i"}}, "a prompt's 'multi_modal_data' is not supported"),
        ({"encoder_prompt": "x", "decoder_prompt": "y"}, "a prompt's 'encoder_prompt' is not supported"),
        ({"prompt": "x", "cache_salt": 3}, "cache_salt must be text, got 3"),
    ],
)
def test_other_prompts_are_refused(prompt, message):
    with pytest.raises(RequestError, match=message):
        generate_request(prompt, PARAMS, "r")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_request": "adapter"}, "lora_request is not supported, got 'adapter'"),
        ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs is not supported"),
        ({"priority": "high"}, "priority must be an integer, got 'high'"),
        ({"tokenization_kwargs": 3}, "tokenization_kwargs must be a dict, got 3"),
        ({"tokenization_kwargs": {"padding": True}}, "tokenization_kwargs may have .*, not 'padding'"),
        ({"tokenization_kwargs": {"truncate_prompt_tokens": "3"}}, "truncate_prompt_tokens must be an integer"),
        ({"tokenization_kwargs": {"add_special_tokens": 1}}, "add_special_tokens must be True or False"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        generate_request("x", PARAMS, "r", **options)


def test_tokenization():
    request = generate_request(
        "x", PARAMS, "r", tokenization_kwargs={"add_special_tokens": False, "truncate_prompt_tokens": 3}
    )
    assert (request.add_special_tokens, request.truncate_prompt_tokens) == (False, 3)


@pytest.mark.parametrize("params", [None, {"max_tokens": 3}, "greedy"])
def test_parameters_must_be_parameters(params):
    with pytest.raises(RequestError, match="sampling_params must be SamplingParams"):
        generate_request("x", params, "r")


@pytest.mark.parametrize(
    ("params", "limit", "message"),
    [
        ({"temperature": 2.5}, 20, "temperature must be between 0 and 2, got 2.5"),
        ({"temperature": 0, "n": 2}, 20, "n must be 1 when using greedy sampling, got 2"),
        ({"logprobs": 21}, 20, "logprobs may be at most 20, got 21"),
        ({"logprobs": -1}, 20, "logprobs may be at most 20, got all"),
        ({"prompt_logprobs": 3}, 2, "prompt_logprobs may be at most 2, got 3"),
        ({"temperature": 2, "n": 3, "logprobs": 20}, 20, None),
        ({"logprobs": -1, "prompt_logprobs": 500}, -1, None),
    ],
)
def test_vllm_s_limits(params, limit, message):
    params = SamplingParams(**params)
    if message is None:
        assert within_limits(params, limit) is params
    else:
        with pytest.raises(RequestError, match=message):
            within_limits(params, limit)


@pytest.mark.parametrize(("given", "used"), [(0, 0), (1e-6, 1e-6), (0.001, 0.01), (0.01, 0.01), (0.5, 0.5)])
def test_small_temperatures_are_raised(given, used):
    assert within_limits(SamplingParams(temperature=given), 20).temperature == used
