"""Choices that keep a state from token to token: mirostat and adaptive_p (`native/sampling/selectors.cpp`).

`before` changes scores [G, V] so that a draw from them is the selector's choice; `after` says what the choice leaves.
"""

from __future__ import annotations

import math

import torch

from trivet.runtime.cuda.sampling.stages import Knobs, keep_best, left, log_total, total, weights

_IMPOSSIBLE = float("-inf")
_MOST_SURPRISE = 1e6


def before(selector: str, x: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    if selector == "mirostat_v1":
        return torch.where(left(x) > 1, keep_best(x, _mirostat_k(x, knobs["state_0"])), x)
    if selector == "mirostat_v2":
        least = log_total(x) - knobs["state_0"] * math.log(2)
        none = least > x.amax(1, keepdim=True)
        return torch.where(none, keep_best(x, torch.ones_like(least)), torch.where(x >= least, x, _IMPOSSIBLE))
    if selector == "adaptive_p":
        return _near_target(x, knobs)
    return x


def after(
    selector: str, narrowed: torch.Tensor, given: torch.Tensor, tokens: torch.Tensor, knobs: Knobs
) -> torch.Tensor:
    """[G, 2] float64. `given` are the scores that `before` was given, `narrowed` what it made of them."""
    if selector == "adaptive_p":
        p = weights(given).gather(1, tokens) / total(given)
        decay = knobs["adaptive_decay"]
        return torch.cat([decay * knobs["state_0"] + p, decay * knobs["state_1"] + 1], 1)
    surprise = (log_total(narrowed) - narrowed.gather(1, tokens)) / math.log(2)
    mu = knobs["state_0"] - knobs["mirostat_eta"] * (surprise - knobs["mirostat_tau"])
    return torch.cat([mu.clamp(-_MOST_SURPRISE, _MOST_SURPRISE), torch.zeros_like(mu)], 1)


def _mirostat_k(x: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    vocab_size = x.shape[1]
    best = x.topk(min(100, vocab_size), dim=1).values
    t = torch.arange(1, best.shape[1], device=x.device, dtype=torch.float64)
    t = ((t + 1) / t).log()
    there = best[:, 1:] > _IMPOSSIBLE
    steps = torch.where(there, best[:, :-1] - best[:, 1:], 0).double()
    s = (t * steps).sum(1, keepdim=True) / torch.where(there, t * t, 0).sum(1, keepdim=True)
    epsilon = s - 1
    share = torch.where(
        epsilon.abs() < 1e-9,
        1 / math.log(vocab_size),
        epsilon / (1 - torch.full_like(epsilon, vocab_size).pow(-epsilon)),
    )
    k = (share * mu.exp2()).pow(1 / s)
    return torch.where(k >= 1, torch.minimum(k, left(x).double()).floor(), 1)


def _near_target(x: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    peak, sharpness, width = 5.0, 10.0, 0.3
    target = (2 * knobs["adaptive_target"] - knobs["state_0"] / knobs["state_1"]).clamp(0, 1)
    distance = (weights(x) / total(x) - target).abs() / width
    near = (peak - sharpness * distance * distance / (1 + distance)).float()
    return torch.where(x == _IMPOSSIBLE, x, near)
