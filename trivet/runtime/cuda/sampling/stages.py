"""The stages over whole rows of scores [G, V] (float32), where what was dropped is minus infinity.

Each gives the scores that are left, as its function of `native/sampling/stages.cpp` does. `arg` [G, 1] and the knobs
are float64. Parameters that are float32 there are compared in float32. Rows without any candidate stay so.
"""

from __future__ import annotations

import torch
import triton

from trivet.runtime.cuda.kernels.sampling import EXACT
from trivet.runtime.cuda.kernels.sampling.logprobs import exponentials

Knobs = dict[str, torch.Tensor]

_IMPOSSIBLE = float("-inf")
_MOST = 1e30


def bounded(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x == _IMPOSSIBLE, x, x.clamp(-_MOST, _MOST))


def left(x: torch.Tensor) -> torch.Tensor:
    """[G, 1] how many candidates there are."""
    return (x > _IMPOSSIBLE).sum(1, keepdim=True)


def weights(x: torch.Tensor) -> torch.Tensor:
    """e^(x - max) in float32, by the polynomial of softmax.h."""
    below = x - x.amax(1, keepdim=True)
    out = torch.empty_like(below)
    block = 1024
    exponentials[(triton.cdiv(below.numel(), block),)](below, out, below.numel(), BLOCK=block, num_warps=4, **EXACT)
    return out


def total(x: torch.Tensor) -> torch.Tensor:
    """[G, 1] the sum of the weights, float64."""
    return weights(x).double().sum(1, keepdim=True)


def log_total(x: torch.Tensor) -> torch.Tensor:
    """[G, 1] the logarithm of the sum of e^x, float64."""
    return x.amax(1, keepdim=True) + total(x).log()


def keep_best(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The `count` [G, 1] best; of equal ones the first."""
    return torch.where(_place_of(x.sort(dim=1, descending=True, stable=True).indices) < count, x, _IMPOSSIBLE)


def top_k(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    return keep_best(x, arg)


def tgi_top_k(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    last = torch.minimum(arg, left(x)).long().clamp(min=1) - 1
    return _drop_below(x, x.sort(1, descending=True).values.gather(1, last))


def top_p(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    order = x.sort(dim=1, descending=True, stable=True).indices
    mass = weights(x).double().gather(1, order).cumsum(1)
    short = (mass / total(x)).float() < arg.float()
    count = torch.maximum(short.sum(1, keepdim=True) + 1, knobs["min_keep"])
    return torch.where(_place_of(order) < count, x, _IMPOSSIBLE)


def min_p(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    kept = _drop_below(x, x.amax(1, keepdim=True) + arg.float())
    few = left(kept) < knobs["min_keep"]
    return torch.where(few, keep_best(x, knobs["min_keep"]), kept)


def typical_p(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs, ties: bool = False) -> torch.Tensor:
    w, sum_ = weights(x), total(x)
    distance = (x.amax(1, keepdim=True) + sum_.log() - x - _entropy(x, w, sum_)).abs()
    order = distance.sort(dim=1, stable=True).indices
    share = (w.double().gather(1, order).cumsum(1) / sum_).float()
    short = (share < arg.float()) if ties else (share <= arg.float())
    count = torch.maximum(short.sum(1, keepdim=True) + 1, knobs["min_keep"])
    if not ties:
        return torch.where(_place_of(order) < count, x, _IMPOSSIBLE)
    last = torch.minimum(count, left(x)).long().clamp(min=1) - 1
    return torch.where(distance <= distance.gather(1, order.gather(1, last)), x, _IMPOSSIBLE)


def tgi_typical_p(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    return typical_p(x, arg, knobs, ties=True)


def top_n_sigma(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    there, count = x > _IMPOSSIBLE, left(x)
    wide = torch.where(there, x, 0).double()
    mean = wide.sum(1, keepdim=True) / count
    variance = torch.where(there, (wide - mean).square(), 0).sum(1, keepdim=True) / count
    return _drop_below(x, x.amax(1, keepdim=True) - arg.float() * variance.sqrt())


def xtc(x: torch.Tensor, arg: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    likely = (weights(x) / total(x)).float() >= knobs["xtc_threshold"].float()
    excluded = (likely & (x > _IMPOSSIBLE)).sum(1, keepdim=True) - 1
    strikes = (knobs["xtc_strikes"] > 0) & (excluded > 0) & (left(x) - excluded >= knobs["min_keep"])
    place = _place_of(x.sort(dim=1, descending=True, stable=True).indices)
    return torch.where(strikes & (place < excluded), _IMPOSSIBLE, x)


def dynamic_temperature(x: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """[G, 1] float32: what the scores are to be divided by."""
    count = left(x)
    share = (_entropy(x, weights(x), total(x)) / count.double().log()).clamp(0, 1)
    least, most = knobs["least_temperature"].float(), knobs["most_temperature"].float()
    temperature = (least + (most - least) * share.pow(knobs["dynatemp_exponent"])).float()
    return torch.where(count < 2, knobs["temperature"].float(), temperature.nan_to_num(-_MOST).clamp(-_MOST, _MOST))


def _entropy(x: torch.Tensor, w: torch.Tensor, sum_: torch.Tensor) -> torch.Tensor:
    below = torch.where(x > _IMPOSSIBLE, x.amax(1, keepdim=True) - x, 0)
    return sum_.log() + (w * below).double().sum(1, keepdim=True) / sum_


def _drop_below(x: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= least, x, _IMPOSSIBLE)


def _place_of(order: torch.Tensor) -> torch.Tensor:
    """The place of each token in an order of all."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
