import asyncio
import itertools
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.scripted import BOS, EOS, EXTRA, PADDING, ScriptedClient, write_byte_tokenizer
from trivet.api.args import EngineArgs
from trivet.api.async_llm import AsyncLLM
from trivet.api.request import GenerateRequest
from trivet.errors import EngineError, ModelError, OverloadedError, RequestError
from trivet.sampling.params import STAGES, SamplingParams
from trivet.sampling.vllm_params import RepetitionDetectionParams

HELLO = list(b"Hello, world")


async def start(model, *scripts, **options) -> tuple[AsyncLLM, ScriptedClient]:
    client = ScriptedClient(*scripts, **options)
    llm = AsyncLLM(EngineArgs(model), client)
    await llm.start()
    return llm, client


def ask(prompt="Hi", *, deltas=True, request_id="r", add_special_tokens=True, keep=None, **params) -> GenerateRequest:
    params.setdefault("max_tokens", None)
    return GenerateRequest(
        prompt,
        SamplingParams(**params),
        request_id,
        deltas=deltas,
        add_special_tokens=add_special_tokens,
        truncate_prompt_tokens=keep,
    )


async def complete(model, script, pace=1, **params):
    """The one sequence of a request, and the client that made it."""
    llm, client = await start(model, script, pace=pace)
    output = await llm.complete(ask(**params))
    assert output.finished
    return output.outputs[0], client


async def test_a_completion(model):
    output, client = await complete(model, [*HELLO, EOS], seed=5, stream_interval=2**70)
    assert (output.text, output.token_ids) == ("Hello, world", [*HELLO, EOS])
    assert (output.finish_reason, output.stop_reason, output.index) == ("stop", None, 0)
    assert (output.logprobs, output.cumulative_logprob) == (None, None)
    assert "".join(token.text for token in output.tokens if not token.special) == "Hello, world"
    assert (output.tokens[-1].text, output.tokens[-1].special) == ("</s>", True)
    [request] = client.requests
    assert (request.prompt, request.seed, request.eos_token_ids) == ([BOS, *b"Hi"], 5, [EOS])
    assert request.params.stream_interval is None
    assert client.cancelled == []


async def test_the_length_ends_it(model):
    output, _ = await complete(model, HELLO, max_tokens=5)
    assert (output.text, output.finish_reason) == ("Hello", "length")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, "Hell"),
        ({"include_stop_str_in_output": True}, "Hello"),
        ({"ignore_eos": True}, "Hell"),
        ({"min_tokens": 5}, "Hello, w"),
    ],
)
async def test_stop_tokens(model, params, text):
    output, _ = await complete(model, HELLO, stop_token_ids=[ord("o")], **params)
    assert output.text == text
    assert output.stop_reason == output.token_ids[-1] == ord("o")


async def test_special_tokens_are_text_only_when_asked_for(model):
    script = [*b"a", EXTRA, *b"b", EOS]
    assert (await complete(model, script))[0].text == "ab"
    kept, _ = await complete(model, script, skip_special_tokens=False)
    assert kept.text == "a<extra>b"
    both, _ = await complete(model, script, skip_special_tokens=False, include_stop_str_in_output=True)
    assert both.text == "a<extra>b</s>"


async def test_a_stop_string_cancels_the_rest(model):
    output, client = await complete(model, [*HELLO, *HELLO], stop=["xyz", ", w"])
    assert (output.text, output.finish_reason, output.stop_reason) == ("Hello", "stop", ", w")
    assert output.token_ids == list(b"Hello, w")
    assert len(client.cancelled) == 1
    assert client.requests[0].params.stop is None


async def test_a_stop_string_drops_later_tokens_of_its_chunk(model):
    output, _ = await complete(model, HELLO, pace=100, stop="lo", include_stop_str_in_output=True, logprobs=0)
    assert (output.text, output.token_ids) == ("Hello", list(b"Hello"))
    assert len(output.logprobs) == 5


def repeats(tokens, rule) -> bool:
    """Whether the last tokens are one pattern, as often as the rule says."""
    for size in range(max(1, rule.min_pattern_size), rule.max_pattern_size + 1):
        if len(tokens) >= size * rule.min_count and tokens.endswith(tokens[-size:] * rule.min_count):
            return True
    return False


@given(
    text=st.text("ab", min_size=1, max_size=20),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 4)).map(sorted),
    count=st.integers(2, 4),
    min_tokens=st.integers(0, 8),
    pace=st.integers(1, 4),
)
def test_repetitions_end_text(model, text, sizes, count, min_tokens, pace):
    rule = RepetitionDetectionParams(sizes[1], sizes[0], count)
    tokens = text.encode()
    ends = [n for n in range(1, len(tokens)) if n >= min_tokens and repeats(tokens[:n], rule)]

    async def run():
        params = {"repetition_detection": rule, "min_tokens": min_tokens}
        output, client = await complete(model, list(tokens), pace, **params)
        assert output.text == text[: min(ends, default=len(text))]
        assert output.finish_reason == ("repetition" if ends else "length")
        assert output.stop_reason == ("repetition_detected" if ends else None)
        assert client.requests[0].params.repetition_detection is None

    asyncio.run(run())


def join(lists) -> list:
    return list(itertools.chain.from_iterable(lists))


def expected(tokens: bytes, stops: list[str], include: bool, min_tokens: int) -> tuple[str, int]:
    """Text and number of tokens, by looking at the whole text after each token."""
    before = 0
    for made in range(1, len(tokens) + 1):
        text = tokens[:made].decode()
        found = [
            (text.index(s, max(0, before - len(s) + 1)), s) for s in stops if s in text[max(0, before - len(s) + 1) :]
        ]
        if made > min_tokens and found:
            at, stop = min(found, key=lambda match: (match[0] + len(match[1]), match[0]))
            return text[: at + len(stop) if include else at], made
        before = len(text)
    return tokens.decode(), len(tokens)


@given(
    text=st.text("ab", max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    include=st.booleans(),
    min_tokens=st.integers(0, 5),
    pace=st.integers(1, 4),
)
def test_stop_strings_end_text_where_the_whole_text_says(model, text, stops, include, min_tokens, pace):
    async def run():
        params = {"stop": stops or None, "include_stop_str_in_output": include, "min_tokens": min_tokens}
        script = [*text.encode(), ord("c")]
        output, _ = await complete(model, script, pace, **params)
        assert (output.text, len(output.token_ids)) == expected(bytes(script), stops, include, min_tokens)

    asyncio.run(run())


@given(
    text=st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20),
    pace=st.integers(1, 4),
    stop=st.sampled_from([None, "é", "a", "zzz"]),
)
def test_what_is_streamed_is_what_is_returned(model, text, pace, stop):
    async def run():
        script = [*text.encode(), EOS]
        whole, _ = await complete(model, script, pace, stop=stop, logprobs=1)
        for deltas in (True, False):
            llm, _ = await start(model, script, pace=pace)
            outputs = [o.outputs[0] async for o in llm.stream(ask(stop=stop, logprobs=1, deltas=deltas))]
            if deltas:
                assert "".join(o.text for o in outputs) == whole.text
                assert all("\ufffd" not in o.text for o in outputs)
                assert join(o.token_ids for o in outputs) == whole.token_ids
                assert join(o.tokens for o in outputs) == whole.tokens
                assert join(o.logprobs for o in outputs) == whole.logprobs
            else:
                assert outputs[-1].text == whole.text
            assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
            assert outputs[-1].finish_reason == whole.finish_reason == "stop"
        if stop is None:
            assert whole.text == text

    asyncio.run(run())


async def test_characters_are_never_torn(model):
    llm, _ = await start(model, [*"aé🙂".encode(), 0xE2, 0x82, EOS])
    texts = [output.outputs[0].text async for output in llm.stream(ask())]
    assert texts[:7] == ["a", "", "é", "", "", "", "🙂"]
    assert "".join(texts) == "aé🙂\ufffd"


async def test_n_sequences_share_a_group_and_count_seeds(model):
    llm, client = await start(model, [*b"one", EOS], [*b"three", EOS], [*b"2", EOS])
    output = await llm.complete(ask(n=3, seed=2**64 - 1, prompt_logprobs=0))
    assert [o.text for o in output.outputs] == ["one", "three", "2"]
    assert [o.index for o in output.outputs] == [0, 1, 2]
    assert [request.seed for request in client.requests] == [2**64 - 1, 0, 1]
    assert len({request.group for request in client.requests} - {None}) == 1
    assert len({request.request_id for request in client.requests}) == 3
    assert all(request.params.n == 1 for request in client.requests)
    assert [request.params.prompt_logprobs for request in client.requests] == [0, None, None]


async def test_n_sequences_stream_side_by_side(model):
    llm, _ = await start(model, [*b"one", EOS], [*b"three", EOS])
    texts, ends = ["", ""], []
    async for output in llm.stream(ask(n=2)):
        for part in output.outputs:
            texts[part.index] += part.text
            ends += [part.index] if part.finished() else []
        assert output.finished == (len(ends) == 2)
    assert texts == ["one", "three"]
    assert sorted(ends) == [0, 1]


async def test_one_of_n_may_stop_early(model):
    llm, client = await start(model, [*b"a stop b", EOS], [*b"abc", EOS])
    output = await llm.complete(ask(n=2, stop="stop"))
    assert [o.text for o in output.outputs] == ["a ", "abc"]
    assert client.cancelled == [client.requests[0].request_id]


async def test_logprobs_name_the_token_then_the_best(model):
    output, _ = await complete(model, [*b"ab", EOS], logprobs=2)
    first = output.logprobs[0]
    assert list(first) == [ord("a"), ord("b")]
    assert (first[ord("a")].logprob, first[ord("a")].rank, first[ord("a")].decoded_token) == (-98.0, 2, "a")
    assert (first[ord("b")].logprob, first[ord("b")].rank, first[ord("b")].decoded_token) == (-0.5, 1, "b")
    assert output.cumulative_logprob == -(98.0 + 99.0 + 1 + EOS)


@pytest.mark.parametrize(("deltas", "told", "kept"), [(True, [1, 1, 1], 0), (False, [1, 2, 3], 3)])
async def test_logprobs_are_kept_only_to_be_told_again(model, deltas, told, kept):
    llm, _ = await start(model, [*b"ab", EOS])
    job = await llm.prepare(ask(deltas=deltas, logprobs=2))
    outputs = [output.outputs[0] async for output in llm.follow(job)]
    assert [len(output.logprobs) for output in outputs] == told
    assert [next(iter(entry)) for output in outputs for entry in output.logprobs[-1:]] == [*b"ab", EOS]
    assert len(job.completions[0].logprobs) == kept


async def test_prompt_logprobs(model):
    llm, _ = await start(model, [EOS])
    output = await llm.complete(ask("ab", prompt_logprobs=1))
    assert output.prompt_logprobs[0] is None
    assert [next(iter(entry)) for entry in output.prompt_logprobs[1:]] == list(b"ab")


@pytest.mark.parametrize("scripts", [[[*b"one", EOS], [*b"three", EOS]], [[EOS], [*b"2", EOS]], [[*b"1", EOS], [EOS]]])
async def test_the_first_output_of_n_has_the_prompt_logprobs(model, scripts):
    llm, _ = await start(model, *scripts)
    outputs = [output async for output in llm.stream(ask("ab", n=2, prompt_logprobs=1))]
    assert all(output.prompt_logprobs is not None for output in outputs)
    made: list[list[int]] = [[], []]
    for part in itertools.chain.from_iterable(output.outputs for output in outputs):
        made[part.index] += part.token_ids
    assert made == scripts


@pytest.mark.parametrize("pace", [1, 3, 100])
async def test_outputs_carry_prompt_and_times(model, pace):
    llm, _ = await start(model, [*b"abc", EOS], pace=pace)
    output = await llm.complete(ask("Hi"))
    assert (output.prompt, output.prompt_token_ids, output.request_id) == ("Hi", [BOS, *b"Hi"], "r")
    times = output.metrics
    assert (times.queued_ts, times.scheduled_ts, times.first_token_ts, times.last_token_ts) == (1, 2, 3, 6)
    assert (times.num_generation_tokens, output.num_cached_tokens) == (4, 3)


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        (ask("Hi", add_special_tokens=False), [*b"Hi"]),
        (ask("</s>Hi"), [BOS, EOS, *b"Hi"]),
        (ask([1, 2, 3]), [1, 2, 3]),
        (ask([1, 2, 3], keep=2), [2, 3]),
        (ask("Hi", keep=9), [BOS, *b"Hi"]),
        (ask("x" * 900), [BOS, *b"x" * 900]),
    ],
)
async def test_prompts(model, request_, prompt):
    llm, client = await start(model, [EOS])
    await llm.complete(request_)
    assert client.requests[0].prompt == prompt


async def test_a_long_prompt_does_not_hold_the_loop(model):
    llm, client = await start(model, [EOS], max_model_len=20_000)
    task = asyncio.create_task(llm.complete(ask("é" * 5000)))
    await asyncio.sleep(0)
    assert not client.requests
    await task
    assert client.requests[0].prompt == [BOS, *"é".encode() * 5000]


@pytest.mark.parametrize(
    ("request_", "parameter", "message"),
    [
        (ask([]), "prompt", "at least one token"),
        (ask([260]), "prompt", "260"),
        (ask("x" * 1000), "prompt", "1001 tokens.*1000"),
        (ask(stop_token_ids=[300]), "stop_token_ids", "300"),
        (ask(logit_bias={300: 1.0}), "logit_bias", "300"),
        (ask(allowed_token_ids=[300]), "allowed_token_ids", "300"),
        (ask(stop="x", detokenize=False), "stop", "detokenize"),
        (ask(keep=0), "truncate_prompt_tokens", "at least 1, got 0"),
    ],
)
async def test_bad_requests_say_what_is_wrong(model, request_, parameter, message):
    llm, client = await start(model, [EOS])
    with pytest.raises(RequestError, match=message) as error:
        await llm.complete(request_)
    assert error.value.parameter == parameter
    assert not client.requests


async def test_what_goes_past_the_context_ends_with_it(model):
    llm, client = await start(model, [EOS], max_model_len=10)
    await llm.complete(ask([1] * 6, max_tokens=100, min_tokens=50))
    params = client.requests[0].params
    assert (params.max_tokens, params.min_tokens) == (4, 4)


async def test_a_padding_token_is_no_text(model):
    output, _ = await complete(model, [*b"a", PADDING, *b"b", EOS], logprobs=0)
    assert (output.text, output.token_ids) == ("ab", [*b"a", PADDING, *b"b", EOS])
    assert output.logprobs[1][PADDING].decoded_token == ""


async def test_without_detokenizing_there_is_no_text(model):
    output, _ = await complete(model, [*HELLO, EOS], detokenize=False)
    assert (output.text, output.token_ids) == ("", [*HELLO, EOS])


@pytest.mark.parametrize("n", [1, 2])
async def test_closing_the_stream_cancels(model, n):
    llm, client = await start(model, HELLO * 10)
    async with aclosing(llm.stream(ask(n=n))) as outputs:
        async for _ in outputs:
            break
    assert sorted(client.cancelled) == sorted(request.request_id for request in client.requests)


@pytest.mark.parametrize("n", [1, 2])
async def test_cancelling_the_task_cancels(model, n):
    llm, client = await start(model, HELLO * 10)
    task = asyncio.create_task(llm.complete(ask(n=n)))
    while not client.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(client.cancelled) == sorted(request.request_id for request in client.requests)


@pytest.mark.parametrize("n", [1, 2])
async def test_an_engine_failure_is_raised_and_cancels_the_rest(model, n):
    llm, client = await start(model, [*b"ab", "non-finite logits"], HELLO * 10)
    with pytest.raises(EngineError, match="non-finite logits"):
        await llm.complete(ask(n=n))
    assert client.cancelled == [request.request_id for request in client.requests[1:]]


async def test_an_overloaded_engine_takes_all_of_n_or_none(model):
    llm, client = await start(model, HELLO, limit=2)
    with pytest.raises(OverloadedError) as error:
        await llm.complete(ask(n=3))
    assert error.value.retry_after == 7
    assert sorted(client.cancelled) == [request.request_id for request in client.requests]


async def test_unseeded_requests_differ_but_repeat_with_the_engine_s_seed(model):
    async def seeds(seed):
        client = ScriptedClient([EOS])
        llm = AsyncLLM(EngineArgs(model, seed=seed), client)
        await llm.start()
        for _ in range(3):
            await llm.complete(ask())
        return [request.seed for request in client.requests]

    first = await seeds(0)
    assert len(set(first)) == 3
    assert first == await seeds(0)
    assert first != await seeds(1)
    assert await seeds(None) != await seeds(None)


async def test_chats_are_rendered_with_the_model_s_template(model):
    llm, _ = await start(model, [EOS])
    messages = [{"role": "user", "content": "Hi"}]
    assert llm.render_chat(messages) == "[user]Hi[assistant]"
    assert llm.render_chat(messages, add_generation_prompt=False, suffix="!") == "[user]Hi!"


async def test_a_template_may_be_given_as_text_or_file(model, tmp_path):
    (tmp_path / "t.jinja").write_text("file {{ messages[0].content }}")
    for template, text in (("text {{ messages[0].content }}", "text Hi"), (str(tmp_path / "t.jinja"), "file Hi")):
        llm = AsyncLLM(EngineArgs(model, chat_template=template), ScriptedClient([EOS]))
        await llm.start()
        assert llm.render_chat([{"role": "user", "content": "Hi"}]) == text


async def test_templates_that_are_not_valid(model, tmp_path):
    """One that is given is refused at once, the model's own where it is wanted: texts need none."""
    given = AsyncLLM(EngineArgs(model, chat_template="{% if %}"), ScriptedClient([EOS]))
    with pytest.raises(ModelError, match="the chat template is not valid"):
        await given.start()
    write_byte_tokenizer(tmp_path, "{% if %}")
    own = AsyncLLM(EngineArgs(str(tmp_path)), ScriptedClient([EOS]))
    await own.start()
    with pytest.raises(ModelError, match="the chat template is not valid"):
        own.render_chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(("names", "served"), [(None, None), ("a", ["a"]), (["a", "b"], ["a", "b"])])
async def test_served_names(model, names, served):
    llm = AsyncLLM(EngineArgs(model, served_model_name=names), ScriptedClient([EOS]))
    await llm.start()
    assert llm.model_names == (served or [model])


async def test_texts_that_sampling_needs_reach_the_engine_as_tokens(model):
    _, client = await complete(
        model, [EOS], bad_words=["ab"], dry_multiplier=0.5, dry_sequence_breakers=["\n", "xy"], stages=STAGES
    )
    [request] = client.requests
    assert request.bad_words == [list(b"ab")]
    assert request.dry_breakers == [([10], []), ([ord("x")], [ord("y")])]
    assert len(request.piece_parents) == 4 * PADDING + 4
    assert (request.params.bad_words, list(request.params.dry_sequence_breakers)) == (None, [])


async def test_requests_that_need_none_bring_none(model):
    _, client = await complete(model, [EOS])
    [request] = client.requests
    assert (request.bad_words, request.dry_breakers, request.piece_parents) == ([], [], b"")
