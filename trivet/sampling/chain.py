"""One request's sampling, with its texts as tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from trivet import _native
from trivet.sampling.params import SamplingParams


@dataclass(slots=True)
class Chain:
    """The stages between logits and a token, put together once for each sequence.

    `bad_words` and `dry_breakers` are tokens for the texts of `params`: sequences; and (first, rest) for those that
    begin with one of `first` and go on with all of `rest`. The stage "infill" looks at `end_tokens`, and at
    `piece_parents` (int32): for each token the longest other one that its text begins with, or -1.
    """

    params: SamplingParams
    bad_words: list[list[int]] = field(default_factory=list)
    dry_breakers: list[tuple[list[int], list[int]]] = field(default_factory=list)
    end_tokens: list[int] = field(default_factory=list)
    piece_parents: bytes = field(default=b"", repr=False)
    needs_history: bool = field(init=False, repr=False, compare=False)
    """Whether the choice of a token depends on those before it, or on what their choice left."""
    native: _native.Chain = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.native = _native.Chain(self.params, self.bad_words, self.dry_breakers, self.end_tokens, self.piece_parents)
        self.needs_history = self.native.needs_history
