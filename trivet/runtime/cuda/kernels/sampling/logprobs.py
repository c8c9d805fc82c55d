"""Log-probabilities, and what whole rows are sorted and weighted by."""

import triton
import triton.language as tl

from trivet.runtime.cuda.kernels.sampling.arithmetic import exp_nonpositive, ordered
from trivet.runtime.cuda.kernels.sampling.candidates import count_above


@triton.jit
def report(
    logits,
    rows,  # those that it is about
    tokens,
    log_sums,
    logprobs,
    ranks,  # of all rows
    vocab_size,
    BLOCK: tl.constexpr,
):
    """The log-probability and the rank of each row's token under the softmax of its logits."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    logits += row * vocab_size
    own = tl.load(logits + tl.load(tokens + row))
    tl.store(logprobs + row, (own.to(tl.float64) - tl.load(log_sums + row)).to(tl.float32))
    tl.store(ranks + row, 1 + count_above(logits, vocab_size, own, BLOCK))


@triton.jit
def sort_keys(values, keys, vocab_size, BLOCK: tl.constexpr):
    """Integers that are larger for a larger value of a row, and for the smaller id of two equal."""
    row = tl.program_id(0).to(tl.int64) * vocab_size
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(values + row + ids, mask=ids < vocab_size, other=0.0)
    tl.store(keys + row + ids, (ordered(x) << 32) | (0xFFFFFFFF - ids.to(tl.int64)), mask=ids < vocab_size)


@triton.jit(do_not_specialize=["count"])
def exponentials(x, y, count, BLOCK: tl.constexpr):
    """y = e^x, for x <= 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, exp_nonpositive(tl.load(x + at, mask=at < count, other=0.0)), mask=at < count)
