"""The flags of llama-server that give requests their defaults of sampling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from trivet.sampling import llamacpp_samplers as samplers
from trivet.server.flags import Flag, Reader, flag, number, whole


def sampler_names(text: str) -> tuple[str, ...]:
    """Stages from names parted by semicolons."""
    names = [name.strip() for name in text.split(";") if name.strip()]
    return _stages(names, ";".join(samplers.LETTERS))


def sampler_letters(text: str) -> tuple[str, ...]:
    """Stages from a letter each."""
    return _stages(text, f"the letters {''.join(samplers.LETTERS.values())}")


def _stages(given: Sequence[str], known: str) -> tuple[str, ...]:
    for name in given:
        if samplers.canonical(name) is None:
            raise ValueError(f"must be made of {known}, got {name!r}")
    return samplers.stages(samplers.samplers(given))


def logit_bias(text: str) -> dict[int, float]:
    """TOKEN_ID(+/-)BIAS: `15043+1`, `15043-1.5`."""
    match = re.fullmatch(r"(\d+)([+-](?:\d+(?:\.\d*)?|inf))", text)
    if match is None:
        raise ValueError(f"must be a token id with a bias, like 15043-1.5, got {text!r}")
    return {int(match[1]): float(match[2])}


def breakers(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")


def sampling(names: str, parameter: str, read: Reader, help: str, **more: Any) -> Flag:
    """A flag that gives requests a default."""
    return flag(names, f"sampling.{parameter}", read, f"{help}: the default of llama.cpp's endpoints.", **more)


SAMPLING: list[Flag] = [
    sampling(
        "--samplers", "stages", sampler_names, "The stages and their order, parted by semicolons", metavar="NAMES"
    ),
    sampling("--sampler-seq --sampling-seq", "stages", sampler_letters, "The same, a letter each", metavar="LETTERS"),
    flag("-s --seed", "sampling.seed", whole(-1, 2**32 - 1), "Seed of requests that give none; -1 is random."),
    flag("--ignore-eos", "sampling.ignore_eos", None, "Go on past the end of the text."),
    sampling("--temp --temperature", "temperature", number(0), "Temperature", env="LLAMA_ARG_TEMPERATURE"),
    sampling("--top-k", "top_k", whole(0), "Keep the K likeliest; 0 is all", env="LLAMA_ARG_TOP_K"),
    sampling("--top-p", "top_p", number(0, 1), "Keep the likeliest that make up this much", env="LLAMA_ARG_TOP_P"),
    sampling("--min-p", "min_p", number(0, 1), "Least likelihood, next to the likeliest", env="LLAMA_ARG_MIN_P"),
    sampling("--top-nsigma --top-n-sigma", "top_n_sigma", number(), "Logits within so many standard deviations"),
    sampling("--xtc-probability", "xtc_probability", number(0, 1), "How often the likeliest are left out"),
    sampling("--xtc-threshold", "xtc_threshold", number(0, 1), "How likely these must be"),
    sampling("--typical --typical-p", "typical_p", number(0, 1), "Locally typical sampling"),
    sampling("--repeat-last-n", "penalty_last_n", whole(-1), "Tokens that penalties look at; -1 is all"),
    sampling(
        "--repeat-penalty",
        "repetition_penalty",
        number(0),
        "Penalty of tokens seen before",
        env="LLAMA_ARG_REPEAT_PENALTY",
    ),
    sampling(
        "--presence-penalty",
        "presence_penalty",
        number(-2, 2),
        "Penalty of tokens made before",
        env="LLAMA_ARG_PRESENCE_PENALTY",
    ),
    sampling(
        "--frequency-penalty",
        "frequency_penalty",
        number(-2, 2),
        "The same, for each time",
        env="LLAMA_ARG_FREQUENCY_PENALTY",
    ),
    sampling("--dry-multiplier", "dry_multiplier", number(0), "Strength of DRY"),
    sampling("--dry-base", "dry_base", number(0), "Base of DRY"),
    sampling("--dry-allowed-length", "dry_allowed_length", whole(0), "Length of repetitions that DRY allows"),
    sampling("--dry-penalty-last-n", "dry_penalty_last_n", whole(-1), "Tokens that DRY looks at; -1 is all"),
    flag(
        "--dry-sequence-breaker",
        "sampling.dry_sequence_breakers",
        breakers,
        "Text that ends a repetition for DRY; may be given again; none is none.",
        "TEXT",
        again=True,
    ),
    sampling("--adaptive-target", "adaptive_target", number(-1, 1), "Probability that adaptive-p aims at"),
    sampling("--adaptive-decay", "adaptive_decay", number(0, 0.99), "How slowly adaptive-p forgets"),
    sampling("--dynatemp-range", "dynatemp_range", number(0), "Range of the dynamic temperature"),
    sampling("--dynatemp-exp", "dynatemp_exponent", number(), "Exponent of the dynamic temperature"),
    sampling("--mirostat", "mirostat", whole(0, 2), "Mirostat: 0 is off, 1 or 2"),
    sampling("--mirostat-lr", "mirostat_eta", number(0), "Learning rate of mirostat"),
    sampling("--mirostat-ent", "mirostat_tau", number(0), "Entropy that mirostat aims at"),
    flag(
        "-l --logit-bias",
        "sampling.logit_bias",
        logit_bias,
        "Bias of a token, where a request says nothing else; may be given again.",
        "ID(+/-)BIAS",
        again=True,
    ),
    flag("-r --reverse-prompt", "sampling.stop", str, "Requests that give none stop there.", "TEXT", again=True),
]
