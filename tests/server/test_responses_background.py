"""OpenAI's responses in the background: how far they have come, their end, and streams of them."""

from __future__ import annotations

import json

import openai

from tests.server.fake_llm import ANSWER, TOKENS, FakeLLM
from tests.server.test_responses import PATH, body, text_of
from tests.server.wire import client as http
from tests.server.wire import get, named_events, post, until


def test_background(serve):
    llm = FakeLLM(delay=0.02)
    url = serve(llm)

    def status(response_id):
        return get(url, f"{PATH}/{response_id}").json()["status"]

    queued = post(url, PATH, body(background=True)).json()
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    until(lambda: status(queued["id"]) == "in_progress")
    refused = post(url, PATH, body(previous_response_id=queued["id"]))
    assert refused.status_code == 400 and "is in_progress" in refused.json()["error"]["message"]
    until(lambda: status(queued["id"]) == "completed")
    done = get(url, f"{PATH}/{queued['id']}").json()
    assert text_of(done) == ANSWER and done["usage"]["output_tokens"] == len(TOKENS)
    assert post(url, f"{PATH}/{queued['id']}/cancel", {}).json() == done

    for end in ("cancel", "delete"):
        running_id = post(url, PATH, body(background=True)).json()["id"]
        if end == "cancel":
            until(lambda running_id=running_id: status(running_id) == "in_progress")
            assert post(url, f"{PATH}/{running_id}/cancel", {}).json()["status"] == "cancelled"
            assert status(running_id) == "cancelled"
        else:
            assert http.delete(f"{url}{PATH}/{running_id}").json()["deleted"]
            assert get(url, f"{PATH}/{running_id}").status_code == 404
        until(lambda: not llm.engine.running)

    plain = post(url, PATH, body(max_output_tokens=1)).json()["id"]
    refused = post(url, f"{PATH}/{plain}/cancel", {})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == "Cannot cancel a synchronous response."


def test_streamed_in_background(serve):
    llm = FakeLLM(delay=0.02)
    url = serve(llm)

    def replayed(response_id, **query):
        return named_events(get(url, f"{PATH}/{response_id}", params={"stream": "true", **query}))

    asked = body(background=True, stream=True)
    events = named_events(post(url, PATH, asked))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = ["created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta"]
    assert [event["type"] for event in events[:6]] == [f"response.{name}" for name in names]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert events[-1]["type"] == "response.completed" and text_of(events[-1]["response"]) == ANSWER
    response_id = events[0]["response"]["id"]
    assert get(url, f"{PATH}/{response_id}").json() == events[-1]["response"]
    assert replayed(response_id) == events
    assert replayed(response_id, starting_after=3) == events[4:]
    assert replayed(response_id, starting_after=1000) == []
    for wrong in ("-1", "x"):
        refused = get(url, f"{PATH}/{response_id}", params={"stream": "true", "starting_after": wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "starting_after"

    with http.stream("POST", url + PATH, json=asked) as response:
        left = json.loads(next(line for line in response.iter_lines() if line.startswith("data: "))[6:])["response"]
    replay = replayed(left["id"])
    assert [event["type"] for event in replay] == [event["type"] for event in events]
    assert text_of(replay[-1]["response"]) == ANSWER

    queued = post(url, PATH, body(background=True)).json()
    assert replayed(queued["id"])[-1]["type"] == "response.completed", "followed though nobody streamed it"
    running_id = post(url, PATH, body(background=True)).json()["id"]
    until(lambda: get(url, f"{PATH}/{running_id}").json()["status"] == "in_progress")
    assert post(url, f"{PATH}/{running_id}/cancel", {}).json()["status"] == "cancelled"
    assert len(replayed(running_id)) < len(events)


def test_client_comes_back(serve):
    """A stream that was lost goes on after the last event that came."""
    client = openai.OpenAI(base_url=serve(FakeLLM(delay=0.02)) + "/v1", api_key="none", max_retries=0)
    with client.responses.create(model="fake", input="hi", stream=True, background=True) as stream:
        first = [event for event, _ in zip(stream, range(7), strict=False)]
    response_id = first[0].response.id
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=first[-1].sequence_number))
    deltas = [event.delta for event in [*first, *rest] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == rest[-1].response.output_text == ANSWER
