"""Ways to ask a server that hide nothing of its answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx

client = httpx.Client(timeout=30, verify=False)
"""One for all tests: to make one takes longer than most of them."""


def get(url: str, path: str, **kwargs: Any) -> httpx.Response:
    return client.get(url + path, **kwargs)


def post(url: str, path: str, body: Any, **kwargs: Any) -> httpx.Response:
    return client.post(url + path, json=body, **kwargs)


def events(response: httpx.Response) -> list[Any]:
    """The messages of an event stream, checked for their framing; "[DONE]" stays a string."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    *messages, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(message.startswith("data: ") and "\n" not in message for message in messages)
    bodies = [message.removeprefix("data: ") for message in messages]
    return [body if body == "[DONE]" else json.loads(body) for body in bodies]


def named_events(response: httpx.Response) -> list[Any]:
    """The messages of a stream of named events, checked for their framing; each has its event's name for a type."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *messages, rest = response.text.split("\n\n")
    assert rest == ""
    bodies = []
    for message in messages:
        name, data = message.split("\n")
        bodies.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {bodies[-1]['type']}"
    return bodies


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}], **fields}
