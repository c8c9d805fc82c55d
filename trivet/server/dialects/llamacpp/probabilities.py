"""Log-probabilities in llama.cpp's shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trivet.api.outputs import Logprob
from trivet.server.dialects.llamacpp.results import GenerationSettings, TokenProbability, TopProbability
from trivet.server.dialects.llamacpp.schemas import MAX_FLOAT

if TYPE_CHECKING:
    from trivet.text.tokenizer import Tokenizer


def probabilities(
    tokenizer: Tokenizer, settings: GenerationSettings, tokens: Sequence[int], entries: Sequence[dict[int, Logprob]]
) -> list[TokenProbability]:
    """The tokens' own, each with the `n_probs` best at its place.

    Before sampling they are logarithms, with the lowest float32 for minus infinity, which JSON cannot say; after it
    (`post_sampling_probs`), probabilities.
    """
    after = settings.post_sampling_probs

    def described(token: int, value: Logprob, drawn: int) -> dict[str, Any]:
        if not after:
            number = {"logprob": max(value.logprob, -MAX_FLOAT)}
        elif is_greedy(settings):
            number = {"prob": float(token == drawn)}
        else:
            number = {"prob": math.exp(value.logprob)}
        return {
            "id": token,
            "token": tokenizer.token_text(token),
            "bytes": list(tokenizer.token_bytes(token)),
            **number,
        }

    result = []
    for token, entry in zip(tokens, entries, strict=True):
        best = [TopProbability(**described(other, value, token)) for other, value in _best(entry, settings.n_probs)]
        own = described(token, entry[token], token) | {"top_probs" if after else "top_logprobs": best}
        result.append(TokenProbability(**own))
    return result


def is_greedy(settings: GenerationSettings) -> bool:
    """Whether the temperature has left but one token."""
    if settings.mirostat:
        return settings.temperature <= 0
    return settings.temperature <= 0 and settings.dynatemp_range <= 0 and "temperature" in settings.samplers


def _best(entry: dict[int, Logprob], count: int) -> list[tuple[int, Logprob]]:
    ranked = [item for item in entry.items() if item[1].rank is not None and item[1].rank <= count]
    return sorted(ranked, key=lambda item: item[1].rank or 0)
