"""Small vocabularies as GGUF metadata, and texts to try them on, drawn from seeds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[3] / "shared"
KINDS = ("sentencepiece", "bpe", "gemma4")

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PIECES = {
    "sentencepiece": ["a", "b", " ", "é", "=", "c", "\n", "<s>", "aa", "==", "  ", "中"],
    "bpe": ["a", "b", " ", "1", "c", "<xx>", "<x", ">", "<|im_end|>", "é"],
    "gemma4": ["a", "b", " ", "é", "\n", "\n\n", "c", "😀"],
}


def metadata(kind: str, seed: int = 0) -> dict[str, Any]:
    """A random vocabulary of a kind, with many ways to put the same text together."""
    draw = random.Random(seed)
    return {"sentencepiece": _sentencepiece, "bpe": _bpe, "gemma4": _gemma4}[kind](draw)


def text(kind: str, draw: random.Random) -> str:
    """A text that such a vocabulary has something to say about."""
    return "".join(draw.choice(_PIECES[kind]) for _ in range(draw.randrange(25)))


def keys(model: str, **values: Any) -> dict[str, Any]:
    return {"tokenizer.ggml.model": model} | {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def wordpiece() -> dict[str, Any]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hello", "▁wor", "ld", "s", "▁!", "▁a", "a", "▁中"]
    ids = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0}
    return keys("bert", tokens=tokens, token_type=[3, 2, 3, 3] + [1] * 8, **ids)


def _sentencepiece(draw: random.Random) -> dict[str, Any]:
    """Few letters and equal scores, so that ties are common; some letters are no tokens themselves."""
    alphabet = ["a", "b", "▁", "é", "="]
    rows = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)] + [(byte, 6, 0.0) for byte in _BYTES]
    rows += [(char, 1, -100.0) for char in alphabet if draw.random() < 0.8]
    words = {"".join(draw.choice(alphabet) for _ in range(draw.randint(2, 5))) for _ in range(draw.randrange(60))}
    rows += [(word, draw.choice([1] * 12 + [4, 5]), float(draw.randint(-8, -1))) for word in sorted(words)]
    tokens, types, scores = (list(column) for column in zip(*rows, strict=True))
    found = keys("llama", tokens=tokens, token_type=types, scores=scores)
    if draw.random() < 0.5:
        found |= keys("llama", add_space_prefix=draw.random() < 0.5)
    if draw.random() < 0.3:
        found |= keys("llama", add_eos_token=True)
    return found


def byte_alphabet() -> list[str]:
    """GPT-2's 256 characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *map(chr, range(256, 256 + 256 - len(printable)))]


def _bpe(draw: random.Random) -> dict[str, Any]:
    tokens = [*byte_alphabet(), "<|im_end|>", "<x>", "<xx>"]
    merges, made = _merges(draw, ["a", "b", "Ġ", "1"], tokens)
    types = [1] * 256 + [3, 4, 4] + [1] * len(made)
    pre = draw.choice(["gpt-2", "llama-bpe", "qwen2", "starcoder", "default"])
    return keys(
        "gpt2", pre=pre, tokens=tokens + made, token_type=types, merges=merges, bos_token_id=256, eos_token_id=256
    )


def _gemma4(draw: random.Random) -> dict[str, Any]:
    alphabet = ["a", "b", "▁", "\n", "é"]
    tokens = ["<pad>", "<eos>", "<bos>", *_BYTES, *alphabet]
    merges, made = _merges(draw, alphabet, tokens)
    made += ["\n" * n for n in range(2, 6) if "\n" * n not in made]
    types = [3, 3, 3] + [6] * 256 + [1] * 5 + [draw.choice([1] * 9 + [4]) for _ in made]
    ids = {"bos_token_id": 2, "eos_token_id": 1}
    scores = [0.0] * len(types)
    return keys("gemma4", tokens=tokens + made, token_type=types, merges=merges, scores=scores, **ids)


def _merges(draw: random.Random, alphabet: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
    """Random merges, some of them twice, and the tokens that they make."""
    parts, merges, made = list(alphabet), [], []
    for _ in range(draw.randrange(1, 50)):
        left, right = draw.choice(parts), draw.choice(parts)
        merges.append(f"{left} {right}")
        if left + right not in parts and left + right not in tokens:
            parts.append(left + right)
            made.append(left + right)
    return merges, made
