"""The forms of `logit_bias`."""

from __future__ import annotations

from typing import Any

from trivet.server.dialects.llamacpp.results import LogitBias
from trivet.server.errors import Kind, Problem
from trivet.server.service import Service


def logit_bias(service: Service, given: Any) -> list[LogitBias]:
    """Entries [token or text, bias or false], or an object of the same; false forbids the token.

    A key of digits is a token: keys are always texts.
    """
    pairs = [(_key(what), bias) for what, bias in given.items()] if isinstance(given, dict) else given
    if not isinstance(pairs, list):
        raise Problem(Kind.INVALID, "Field 'logit_bias': expected a list or an object", "logit_bias")
    result: list[LogitBias] = []
    for pair in pairs:
        match pair:
            case [int() | str() as what, int() | float() as bias] if what is not True and what is not False:
                if bias is True:
                    raise _wrong(pair)
                value = None if bias is False else float(bias)
                result += [LogitBias(value, token) for token in _tokens(service, what)]
            case _:
                raise _wrong(pair)
    return result


def _key(key: str) -> int | str:
    return int(key) if key.isdecimal() and len(key) < 20 else key


def _tokens(service: Service, what: int | str) -> list[int]:
    if isinstance(what, str):
        return service.llm.tokenizer.encode(what, add_special=False)
    if not 0 <= what < service.llm.info.vocab_size:
        raise Problem(Kind.INVALID, f"Field 'logit_bias': token {what} is not in the vocabulary", "logit_bias")
    return [what]


def _wrong(pair: Any) -> Problem:
    message = f"Field 'logit_bias': expected [token or text, bias or false], got {pair!r:.100}"
    return Problem(Kind.INVALID, message, "logit_bias")
