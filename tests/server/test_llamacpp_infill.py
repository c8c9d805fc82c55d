"""Filling in the middle: where the parts of the prompt go, and how much of them."""

from __future__ import annotations

import pytest

from tests.server.fake_llm import BOS, FakeLLM
from tests.server.wire import events, post

PRE, SUF, MID, REP, SEP = 251, 252, 253, 254, 255
"""Bytes that UTF-8 does not use stand for the tokens."""
FIM = {"pre": PRE, "suf": SUF, "mid": MID}
EXTRA = [{"text": "one", "filename": "a.h"}, {"text": "two"}]


class InfillLLM(FakeLLM):
    def __init__(self, **fim):
        super().__init__(max_model_len=512)
        self.fim = fim

    async def start(self):
        await super().start()
        self.tokenizer.fim = self.fim


def ids(text):
    return [*text.encode()]


def body(**fields):
    return {"input_prefix": "ab", "input_suffix": "yz", **fields}


@pytest.mark.parametrize(
    ("fim", "fields", "options", "prompt"),
    [
        (FIM, {}, {}, [BOS, PRE, *ids("ab"), SUF, *ids("yz"), MID]),
        (FIM, {"prompt": "cd"}, {}, [BOS, PRE, *ids("abcd"), SUF, *ids("yz"), MID]),
        (FIM, {"prompt": "cd"}, {"spm_infill": True}, [BOS, SUF, *ids("yz"), PRE, *ids("abcd"), MID]),
        (
            FIM,
            {"input_extra": EXTRA},
            {},
            [*ids("\n\n--- snippet ---\n\none\n\n--- snippet ---\n\ntwo"), BOS, PRE, *ids("ab"), SUF, *ids("yz"), MID],
        ),
        (
            FIM | {"rep": REP, "sep": SEP},
            {"input_extra": EXTRA},
            {},
            [
                *(REP, *ids("myproject\n"), SEP, *ids("a.h\none"), SEP, *ids("tmp\ntwo"), SEP, *ids("filename\n")),
                *(BOS, PRE, *ids("ab"), SUF, *ids("yz"), MID),
            ],
        ),
        (
            FIM,
            {"input_prefix": "p" * 300 + "q", "input_suffix": "s" + "t" * 300, "prompt": "r"},
            {},
            [BOS, PRE, *ids("p" * 191 + "qr"), SUF, *ids("s" + "t" * 60), MID],
        ),
        (
            FIM,
            {"input_extra": [{"text": "e" * 400 + "f"}], "n_predict": 100},
            {},
            [*ids("e" * 55 + "f"), BOS, PRE, *ids("ab"), SUF, *ids("yz"), MID],
        ),
    ],
    ids=[*("plain", "prompt", "spm", "snippets", "repository", "long", "long extra")],
)
def test_prompts(serve, fim, fields, options, prompt):
    """A step has 256 tokens, the context 512."""
    llm = InfillLLM(**fim)
    url = serve(llm, **options)
    request = {"n_predict": 3} | body(**fields)
    whole = post(url, "/infill", request).json()
    assert (whole["content"][:3], whole["tokens_evaluated"]) == ("Lil", len(prompt))
    *partial, final = events(post(url, "/infill", request | {"stream": True}))
    assert "".join(event["content"] for event in partial) == whole["content"] and final["stop"]
    assert [one.prompt for one in llm.requests] == [prompt] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_prefix": None}, '"input_prefix" is required'),
        ({"input_suffix": None}, '"input_suffix" is required'),
        ({"input_prefix": 5}, '"input_prefix" must be a string'),
        ({"prompt": [1]}, '"prompt" must be a string'),
        ({"input_extra": {}}, '"input_extra" must be an array'),
        ({"input_extra": [{}]}, 'must contain a "text" field'),
        ({"input_extra": [{"filename": "ok"}]}, 'must contain a "text" field'),
        ({"input_extra": [{"filename": 123}]}, 'must contain a "text" field'),
        ({"input_extra": [{"filename": 123, "text": "abc"}]}, 'must contain a "filename" field'),
        ({"input_extra": [{"filename": 123, "text": 456}]}, 'must contain a "text" field'),
        ({"input_extra": [5]}, 'must contain a "text" field'),
    ],
    ids=str,
)
def test_refusals(serve, fields, message):
    response = post(serve(InfillLLM(**FIM)), "/infill", body() | fields)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error") and message in error["message"]


def test_a_model_without_the_tokens(url, serve):
    response = post(url, "/infill", body())
    assert response.status_code == 501
    assert response.json()["error"] == {
        "code": 501,
        "message": "Infill is not supported by this model: prefix token is missing. suffix token is missing. "
        "middle token is missing. ",
        "type": "not_supported_error",
    }
    message = post(serve(InfillLLM(pre=PRE, mid=MID)), "/infill", body()).json()["error"]["message"]
    assert message.endswith(": suffix token is missing. ")
