import io
import threading
import time

import pytest

from tests.api.scripted import BOS, EOS
from trivet import LLM, EngineArgs, SamplingParams
from trivet.api import progress
from trivet.errors import EngineError, ModelError, RequestError

PARAMS = SamplingParams(max_tokens=50)


@pytest.mark.parametrize(
    ("prompts", "ids"),
    [
        ("ab", [[BOS, 97, 98]]),
        (["ab", "c"], [[BOS, 97, 98], [BOS, 99]]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ({"prompt": "ab"}, [[BOS, 97, 98]]),
        ({"prompt_token_ids": [1, 2]}, [[1, 2]]),
        ({"prompt_token_ids": [1, 2], "prompt": "x"}, [[1, 2]]),
        (["ab", [1], {"prompt": "c"}], [[BOS, 97, 98], [1], [BOS, 99]]),
        (("ab",), [[BOS, 97, 98]]),
        ([], []),
    ],
)
def test_forms_of_prompts(model, script, prompts, ids):
    script([EOS])
    with LLM(model) as llm:
        assert [output.prompt_token_ids for output in llm.generate(prompts, PARAMS)] == ids


@pytest.mark.parametrize("prompt", [None, {"text": "x"}, {}, ["a", 3.5], {"prompt": 3}, [[1, "a"]]])
def test_other_prompts_are_refused(model, script, prompt):
    client = script([EOS])
    with LLM(model) as llm, pytest.raises(RequestError, match="a prompt is text"):
        llm.generate([prompt] if not isinstance(prompt, list) else prompt, PARAMS)
    assert not client.requests


def test_outputs_are_in_the_order_of_prompts(model, script):
    script([*b"long one", EOS], [*b"b", EOS], [*b"mid", EOS])
    with LLM(model) as llm:
        outputs = llm.generate(["x", "y", "z"], PARAMS)
    assert [output.outputs[0].text for output in outputs] == ["long one", "b", "mid"]
    assert [output.request_id for output in outputs] == ["0", "1", "2"]


def test_each_prompt_may_have_its_own_parameters(model, script):
    client = script([*b"abc", EOS])
    with LLM(model) as llm:
        llm.generate(["x", "y"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)], priority=[5, 6])
        with pytest.raises(RequestError, match="2 prompts but 1 sampling_params"):
            llm.generate(["x", "y"], [PARAMS])
    assert [(r.params.max_tokens, r.priority) for r in client.requests] == [(1, 5), (2, 6)]


def test_one_bad_prompt_stops_all_before_they_run(model, script):
    client = script([EOS], max_model_len=20)
    with LLM(model) as llm, pytest.raises(RequestError, match="21 tokens"):
        llm.generate(["ok", "x" * 20], PARAMS)
    assert not client.requests


def test_a_prompt_that_fails_fails_alone(model, script):
    script([*b"ab", "non-finite logits"], [*b"fine", EOS])
    with LLM(model) as llm:
        bad, good = llm.generate(["x", "y"], PARAMS)
    assert (bad.outputs[0].text, bad.outputs[0].finish_reason, bad.finished) == ("ab", "error", True)
    assert (good.outputs[0].text, good.outputs[0].finish_reason) == ("fine", "stop")


def test_an_engine_that_is_gone_is_an_error(model, script):
    client = script(["the engine stopped"])
    with LLM(model) as llm:
        client.alive = False
        with pytest.raises(EngineError, match="the engine stopped"):
            llm.generate("x", PARAMS)


def test_chat(model, script):
    client = script([*b"Hello", EOS])
    hi, bye = ([{"role": "user", "content": text}] for text in ("Hi", "Bye"))
    with LLM(model) as llm:
        [output] = llm.chat(hi, PARAMS)
        assert (output.prompt, output.outputs[0].text) == ("[user]Hi[assistant]", "Hello")
        assert client.requests[0].prompt == list(b"[user]Hi[assistant]")
        assert [o.prompt for o in llm.chat([hi, bye], PARAMS)] == ["[user]Hi[assistant]", "[user]Bye[assistant]"]
        [output] = llm.chat(hi, PARAMS, chat_template="{{ messages[0].content }}?")
        assert output.prompt == "Hi?"
        for wrong in (3, "Hi", {"role": "user"}, [3]):
            with pytest.raises(RequestError, match="messages"):
                llm.chat(wrong, PARAMS)
        [output] = llm.chat(hi, PARAMS, add_generation_prompt=False, chat_template_kwargs={"suffix": "!"})
        assert output.prompt == "[user]Hi!"


def test_streaming(model, script):
    client = script([*b"Hello", EOS])
    with LLM(model) as llm:
        assert "".join(output.outputs[0].text for output in llm.stream("x", PARAMS)) == "Hello"
        stream = llm.stream("x", PARAMS)
        assert next(stream).outputs[0].text == "H"
        stream.close()
        left_open = llm.stream("x", PARAMS)
        next(left_open)
    left_open.close()
    assert client.cancelled[0] == client.requests[1].request_id


def test_what_the_makers_recommend_is_the_default(tmp_path, script):
    from tests.api.scripted import write_byte_tokenizer

    script([EOS])
    write_byte_tokenizer(tmp_path)
    with LLM(str(tmp_path)) as llm:
        assert llm.get_default_sampling_params() == SamplingParams()
    config = tmp_path / "generation_config.json"
    config.write_text('{"temperature": 0.6, "top_k": 20, "max_new_tokens": 9, "eos_token_id": 3, "top_p": null}')
    with LLM(str(tmp_path)) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(temperature=0.6, top_k=20, max_tokens=9)
    other = {"generation_config": str(tmp_path), "override_generation_config": {"top_k": 5, "min_p": 0.5}}
    for args, expected in (
        ({"generation_config": "vllm"}, {}),
        ({"generation_config": "vllm", "override_generation_config": {"max_new_tokens": 3}}, {"max_tokens": 3}),
        (other, {"temperature": 0.6, "top_k": 5, "min_p": 0.5, "max_tokens": 9}),
    ):
        with LLM(str(tmp_path), **args) as llm:
            assert llm.get_default_sampling_params() == SamplingParams(**expected)
    with pytest.raises(ModelError, match="generation_config: /nowhere is not 'auto', 'vllm' or a folder"):
        LLM(str(tmp_path), generation_config="/nowhere")
    with pytest.raises(RequestError, match="override_generation_config: beams is no parameter of sampling"):
        LLM(str(tmp_path), override_generation_config={"beams": 3})
    config.write_text('{"temperature": "hot"}')
    with pytest.raises(ModelError, match=r"generation_config\.json: temperature must be a number, got 'hot'"):
        LLM(str(tmp_path))
    config.write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json: not valid JSON"):
        LLM(str(tmp_path))


def test_engine_args_come_whole_or_in_parts(model, script):
    script([EOS])
    args = EngineArgs(model)
    for llm in (LLM(engine_args=args), LLM.from_engine_args(args), LLM(model=model, max_model_len="1K")):
        llm.generate("x", PARAMS)
        llm.close()
    with pytest.raises(TypeError, match="not both"):
        LLM(model, engine_args=args)
    with pytest.raises(TypeError, match="did you mean 'max_model_len'"):
        LLM(model, max_model_length=3)


def wait_for_threads(count: int) -> None:
    """Idle ones notice that they are not needed any more, soon."""
    deadline = time.monotonic() + 10
    while threading.active_count() > count:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_closing_ends_its_threads(model, script):
    client = script([EOS])
    before = threading.active_count()
    llm = LLM(model)
    llm.close()
    llm.close()
    wait_for_threads(before)
    assert not client.alive
    with pytest.raises(EngineError, match="closed"):
        llm.generate("x", PARAMS)


def test_a_model_that_does_not_load_leaves_no_thread(tmp_path):
    before = threading.active_count()
    with pytest.raises(ModelError):
        LLM(str(tmp_path))
    wait_for_threads(before)


def test_a_bar_is_shown_when_it_takes_long(model, script, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    script([*b"ab", EOS])
    for use_tqdm, shown in ((True, True), (False, False)):
        monkeypatch.setattr("sys.stderr", stderr := io.StringIO())
        with LLM(model) as llm:
            llm.generate(["x", "y", "z"], PARAMS, use_tqdm=use_tqdm)
        assert ("3/3" in stderr.getvalue()) == shown
