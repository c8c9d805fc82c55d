"""Log-probabilities of many tokens in few objects: vLLM's `FlatLogprobs`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self, overload

from trivet.api.outputs import Logprob


@dataclass
class FlatLogprobs(Sequence[dict[int, Logprob]]):
    """Reads like the list of dicts that it was made of; None, of a prompt's first token, is an empty one.

    The entries of position i are those from `start_indices[i]` to before `end_indices[i]` in the other lists.
    """

    start_indices: list[int] = field(default_factory=list)
    end_indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int | None] = field(default_factory=list)
    decoded_tokens: list[str | None] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[dict[int, Logprob] | None]) -> Self:
        flat = cls()
        for entry in entries:
            flat.start_indices.append(len(flat.token_ids))
            for token, value in (entry or {}).items():
                flat.token_ids.append(token)
                flat.logprobs.append(value.logprob)
                flat.ranks.append(value.rank)
                flat.decoded_tokens.append(value.decoded_token)
            flat.end_indices.append(len(flat.token_ids))
        return flat

    def __len__(self) -> int:
        return len(self.start_indices)

    @overload
    def __getitem__(self, index: int) -> dict[int, Logprob]: ...

    @overload
    def __getitem__(self, index: slice) -> FlatLogprobs: ...

    def __getitem__(self, index: int | slice) -> dict[int, Logprob] | FlatLogprobs:
        if isinstance(index, slice):
            return self.of(self[i] for i in range(*index.indices(len(self))))
        span = range(self.start_indices[index], self.end_indices[index])
        return {self.token_ids[i]: Logprob(self.logprobs[i], self.ranks[i], self.decoded_tokens[i]) for i in span}
