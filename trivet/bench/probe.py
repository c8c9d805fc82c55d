"""The first requests to a server: whether it answers as it should, and how it counts a prompt's tokens."""

from __future__ import annotations

import msgspec
import numpy as np

from trivet.bench.client import Client, Failure
from trivet.bench.load import Request, Target
from trivet.bench.prompts import WORDS, MakePrompt, from_tokenizer, from_words
from trivet.errors import TrivetError
from trivet.text.tokenizer import Tokenizer


class Card(msgspec.Struct):
    id: str


class Models(msgspec.Struct):
    data: list[Card]


async def first_model(client: Client) -> str:
    """The first model that the server lists. Raises TrivetError."""
    path = "/v1/models"
    try:
        models = msgspec.json.decode(await client.get(path), type=Models).data
    except Failure as failure:
        raise refused(client, path, failure) from None
    except msgspec.DecodeError:
        models = []
    if not models:
        raise TrivetError(f"{client.url}{path} lists no model; name one with --model")
    return models[0].id


async def prompt_tokens(target: Target, text: str) -> int | None:
    """What the server counts for a prompt; None where it does not say. Raises TrivetError where it does not answer."""
    record = await target.ask(Request(text, input_len=0, output_len=1))
    if record.failure is not None:
        raise refused(target.client, target.dialect.path, record.failure)
    return record.prompt_tokens or None


async def prompt_maker(target: Target, rng: np.random.Generator, tokenizer: Tokenizer | None) -> MakePrompt | None:
    """Makes prompts of a length that the server counts; None where it counts nothing. Raises TrivetError."""
    if tokenizer is not None:
        text = " ".join(WORDS)
        counted = await prompt_tokens(target, text)
        if counted is None:
            return None
        return from_tokenizer(rng, counted - len(tokenizer.encode(text, add_special=False)), tokenizer)
    # What every prompt costs is counted twice in the halves' sum, once in the whole.
    half = len(WORDS) // 2
    texts = (" ".join(WORDS[:half]), " ".join(WORDS[half:]), " ".join(WORDS))
    first, second, whole = [await prompt_tokens(target, text) for text in texts]
    if first is None or second is None or whole is None:
        return None
    overhead = first + second - whole
    return from_words(rng, overhead, max(1.0, (whole - overhead) / len(WORDS)))


def refused(client: Client, path: str, failure: Failure) -> TrivetError:
    """One line on why the server cannot be measured, and what to change."""
    if failure.kind == "connection":
        return TrivetError(str(failure))
    hints = {
        401: "give its key with --api-key",
        403: "give its key with --api-key",
        404: "there is no such path or model: see --dialect and --model",
        405: "see --dialect",
    }
    hint = hints.get(failure.status or 0)
    return TrivetError(f"{client.url}{path}: {failure.kind}: {failure}" + (f" ({hint})" if hint else ""))
