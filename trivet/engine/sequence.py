"""One request on its way through the scheduler."""

from __future__ import annotations

import time

import numpy as np

from trivet.engine.blocks import block_key, root_key
from trivet.engine.plan import SampleRow
from trivet.engine.request import EngineRequest, TokenLogprob
from trivet.sampling.chain import Chain


class Sequence:
    """Tokens of a request (prompt, then output) and how much of them is in the cache.

    `computed` tokens have their K and V in the cache, in `blocks`, or will have them after the steps in flight; the
    scheduler drives it towards `num_tokens`, which counts the token that these draw. `keys` name the content of the
    leading full blocks, as far as they were needed; it is None where nothing may be shared.
    """

    def __init__(self, request: EngineRequest, order: tuple[int, int], max_len: int, salt: str | None) -> None:
        params = request.params
        self.request = request
        self.tenant = request.tenant
        self.params = params
        self.chain = Chain(
            params, request.bad_words, request.dry_breakers, request.eos_token_ids, request.piece_parents
        )
        self.sampler_state = request.sampler_state
        self.order = order
        """Priority and arrival, least first: what is served first, and preempted last."""
        self.prompt_len = len(request.prompt)
        self.num_tokens = self.prompt_len + len(request.generated)
        self.max_len = max_len
        """Length, prompt included, at which the sequence ends."""
        self.min_len = self.prompt_len + params.min_tokens
        """Length before which no token ends it."""
        self.stops = frozenset(params.stop_token_ids or ())
        if not params.ignore_eos:
            self.stops |= frozenset(request.eos_token_ids)
        self.suppressed = tuple(sorted(self.stops)) if params.min_tokens else ()
        self.tokens = np.empty(max(max_len, self.num_tokens + 1), np.int32)
        """As many as there may be; those that are drawn by steps in flight are not there yet, and none ever changes."""
        self.tokens[: self.prompt_len] = request.prompt
        self.tokens[self.prompt_len : self.num_tokens] = request.generated
        self.last: int = (request.generated or request.prompt)[-1]
        """The last of the `num_tokens`, or while a step in flight draws it the placeholder for it in a StepPlan."""

        self.computed = 0
        self.blocks: list[int] = []
        self.row = -1
        """In the scheduler's block tables, while running."""
        self.keys: list[bytes] | None = None if salt is None else []
        self._parent = b"" if salt is None else root_key(salt)
        self.ended = False
        """Nobody waits for its tokens any more."""
        self.awaited: bytes | None = None
        """The key of a block that another sequence is computing, while this one waits for it."""
        self.promised: set[bytes] = set()
        """The keys of the blocks that others wait for while this one has yet to compute them."""

        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        """What is known of those still to be reported; entry i belongs to token i, the first is None."""
        if params.prompt_logprobs is not None and not request.generated:
            self.prompt_logprobs = [None]
        self.reported = bool(request.generated)
        """Whether the first chunk was sent, if only by an engine before this one."""
        self.cached_tokens = 0
        self.preemptions = 0
        self.queued_at = time.monotonic()
        self.scheduled_at = 0.0

    @property
    def remaining(self) -> int:
        return self.num_tokens - self.computed

    def sample_row(self, length: int) -> SampleRow:
        """Draw the token after the first `length`."""
        return SampleRow(
            self.chain,
            self.request.seed,
            length,
            self.prompt_len,
            self.tokens,
            -1,
            self.suppressed if length < self.min_len else (),
            self.sampler_state,
        )

    def target_row(self, length: int) -> SampleRow:
        """Give the log-probability of the token after the first `length`."""
        target = int(self.tokens[length])
        return SampleRow(self.chain, self.request.seed, length, self.prompt_len, self.tokens, target)

    def extend_keys(self, count: int, block_size: int) -> None:
        """Have the keys of the first `count` blocks, all full."""
        assert self.keys is not None
        for index in range(len(self.keys), count):
            self._parent = block_key(self._parent, self.tokens[index * block_size : (index + 1) * block_size])
            self.keys.append(self._parent)
