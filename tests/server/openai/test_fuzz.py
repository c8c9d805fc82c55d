"""Whatever is asked for is answered or refused, in the error's own shape."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.wire import chat, post
from trivet.server.dialects.openai.schemas import ChatBatchBody, ChatBody, CompletionBody, TokenizeChatBody

TALK = [{"role": "user", "content": "hi"}]
BODIES = {
    "/v1/chat/completions": (ChatBody, chat()),
    "/v1/chat/completions/batch": (ChatBatchBody, chat(messages=[TALK, TALK])),
    "/v1/completions": (CompletionBody, {"prompt": ["hi", [1, 2]]}),
    "/generate": (CompletionBody, {"prompt": "hi"}),
    "/invocations": (ChatBody, chat()),
    "/tokenize": (TokenizeChatBody, {"messages": TALK}),
}
CONTENTS = st.sampled_from(
    [
        None,
        "a",
        [],
        ["a"],
        [{"type": "text", "text": "a"}],
        [{"type": "refusal"}],
        [{"type": {}}],
        {},
        1,
        [None],
        "\x00",
    ]
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "", None, 1]),
        "content": CONTENTS,
        "tool_calls": st.sampled_from([None, [], [{}], [{"function": {"name": "f", "arguments": "{"}}], "x"]),
        "reasoning": st.sampled_from([None, "hm", 1]),
    },
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 300, 2**31, 2**63, -(2**63), 1e-300, 0.5, 1e308, -0.0])
TEXTS = st.sampled_from(["", "x", "5", "null", "{{ x }}", "{% for", "none", "left", "low", "é", "9" * 5000])
VALUES = st.one_of(
    NUMBERS,
    TEXTS,
    st.sampled_from([None, True, False, {}, {"a": 1}, {"5": 1}, {"5": 1e39}, [], [1], [259], [None], ["x"], [{}]]),
    st.lists(MESSAGES, max_size=3),
    st.lists(st.lists(MESSAGES, max_size=2), max_size=2),
)


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fields(url, path, data):
    shape, body = BODIES[path]
    names = st.sampled_from(shape.__struct_fields__)
    response = post(url, path, body | data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=4)))
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["code"] == response.status_code and error["message"] and error["type"]
