"""A `tokenizer.json` as GGUF metadata (`tokenizer.ggml.*`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from trivet.errors import ModelError
from trivet.text.gguf_vocab import TokenType, load_gguf_vocabulary
from trivet.text.pre_tokenizers import PRE_TOKENIZERS
from trivet.text.tokenizer import Tokenizer
from trivet.text.vocabulary import SPACE, byte_token_value
from trivet.weights.safetensors import read_json_object

PROBE = (
    "Hello, World! It's we'll THEY'RE don't 3 12 345 6789 1234567890 3.14 x=1;y=2 a_b  two   three\ttab\n\n new\r\n"
    "\n  indented ... --- ## $5 <tag> (a|b) ~`^ \u00e9t\u00e9 na\u00efve stra\u00dfe "
    "\u041f\u0440\u0438\u0432\u0435\u0442 "
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \uc548\ub155 \u0627\u0644\u0633\u0644\u0627\u0645 "
    "\u0645\u0631\u062d\u0628\u0627 \U0001f600\U0001f44d\U0001f3fd camelCase HTTPServer e.g. \u00a0nbsp\u3000wide end  "
)
"""A text on which tokenizers that differ are likely to differ; without characters that a Unicode normalisation would
change, since GGUF knows none.
"""


def vocabulary(folder: Path, size: int) -> dict[str, Any]:
    """The metadata of a folder's tokenizer, with tokens filled up to `size`.

    What it says is read back and compared. Raises ModelError when the tokenizer is not byte-pair encoding, or does
    what GGUF cannot say.
    """
    path = folder / "tokenizer.json"
    original = Tokenizer.load(folder)
    pipeline = tokenizers.Tokenizer.from_file(str(path))
    model = read_json_object(path)["model"]
    if model["type"] != "BPE":
        raise ModelError(f"{path}: a tokenizer of type {model['type']} cannot be converted, only BPE can")
    ids = pipeline.get_vocab(with_added_tokens=True)
    if max(ids.values(), default=-1) >= size:
        raise ModelError(f"{path}: token {max(ids.values())} is beyond the model's {size} tokens")
    tokens = [f"[PAD{i}]" for i in range(size)]
    for token, i in ids.items():
        tokens[i] = token
    values: dict[str, Any] = {"tokens": tokens, "token_type": _types(pipeline, model, tokens)}
    if isinstance(pipeline.decoder, tokenizers.decoders.ByteLevel):
        values |= {"model": "gpt2", "pre": _pre_tokenizer(pipeline, model, path), "merges": _merges(model)}
    elif model.get("byte_fallback"):
        values |= {"model": "llama", "pre": "default", "scores": _scores(model, tokens)}
        values["add_space_prefix"] = tokens[original.encode("a", add_special=False)[0]].startswith(SPACE)
    else:
        raise ModelError(f"{path}: BPE over characters cannot be converted, only over bytes or with byte tokens")
    values |= _special_ids(original, ids, path)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    metadata |= _chat_templates(original)
    converted = Tokenizer(*load_gguf_vocabulary(metadata, str(path)))
    if unknown_ends := [i for i in original.eos_ids if i not in converted.eos_ids]:
        metadata |= {
            f"tokenizer.ggml.{role}_token_id": i for role, i in zip(("eot", "eom"), unknown_ends, strict=False)
        }
        converted = Tokenizer(*load_gguf_vocabulary(metadata, str(path)))
    _compare(original, converted, pipeline, path)
    return metadata


def _types(pipeline: tokenizers.Tokenizer, model: dict[str, Any], tokens: list[str]) -> list[int]:
    known = set(pipeline.get_vocab(with_added_tokens=True).values())
    types = [TokenType.NORMAL if i in known else TokenType.UNUSED for i in range(len(tokens))]
    for i, token in enumerate(tokens):
        if model.get("byte_fallback") and byte_token_value(token) is not None:
            types[i] = TokenType.BYTE
    for i, added in pipeline.get_added_tokens_decoder().items():
        types[i] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
        if added.content == model.get("unk_token"):
            types[i] = TokenType.UNKNOWN
    return [int(kind) for kind in types]


def _merges(model: dict[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def _scores(model: dict[str, Any], tokens: list[str]) -> list[float]:
    """SentencePiece merges the pair whose token has the highest score: minus the rank of the first merge to it."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(_merges(model)):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [0.0 - ranks.get(token, 0) for token in tokens]


def _pre_tokenizer(pipeline: tokenizers.Tokenizer, model: dict[str, Any], path: Path) -> str:
    """The name under which GGUF knows the way a tokenizer cuts a text into words, found by its results."""
    if pipeline.pre_tokenizer is not None:
        cut = pipeline.pre_tokenizer.pre_tokenize_str(PROBE)
        spell = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        for name, known in PRE_TOKENIZERS.items():
            if known.byte_level and known.ignore_merges == model.get("ignore_merges", False):
                whole = tokenizers.pre_tokenizers.Sequence([known.build(), spell])
                if whole.pre_tokenize_str(PROBE) == cut:
                    return name
    raise ModelError(f"{path}: GGUF has no name for the way in which this tokenizer cuts a text into words")


def _special_ids(original: Tokenizer, ids: dict[str, int], path: Path) -> dict[str, Any]:
    plain, full = original.encode("a", add_special=False), original.encode("a")
    before = next(i for i in range(len(full) + 1) if full[i : i + len(plain)] == plain or i == len(full))
    bos, eos = full[:before], full[before + len(plain) :]
    if len(bos) > 1 or not set(eos[:1]) <= set(original.eos_ids) or len(eos) > 1:
        raise ModelError(
            f"{path}: puts the tokens {bos} and {eos} around a text; GGUF has one BOS and one EOS for that"
        )
    values: dict[str, Any] = {"add_bos_token": bool(bos), "add_eos_token": bool(eos)}
    roles: dict[str, list[int | None]] = {"bos": [*bos, original.bos_id], "eos": [*eos, *original.eos_ids]}
    for role, name in (("unknown", "unk_token"), ("padding", "pad_token")):
        roles[role] = [ids.get(original.names.get(name, ""))]
    return values | {f"{role}_token_id": found[0] for role, found in roles.items() if found and found[0] is not None}


def _chat_templates(original: Tokenizer) -> dict[str, Any]:
    key = "tokenizer.chat_template"
    named = {name: template for name, template in original.chat_templates.items() if name != "default"}
    metadata: dict[str, Any] = {f"{key}.{name}": template for name, template in named.items()}
    if named:
        metadata["tokenizer.chat_templates"] = list(named)
    if original.chat_template is not None:
        metadata[key] = original.chat_template
    return metadata


def _compare(original: Tokenizer, converted: Tokenizer, pipeline: tokenizers.Tokenizer, path: Path) -> None:
    """Raise ModelError where the two differ."""
    if missing := set(original.eos_ids) - set(converted.eos_ids):
        raise ModelError(f"{path}: GGUF cannot say that the tokens {sorted(missing)} end a generation")
    special = "".join(f"a{token.content}b" for token in pipeline.get_added_tokens_decoder().values())
    for text in (*PROBE.split(" "), special, PROBE):
        for flags in ((True, True), (False, False)):
            expected, found = original.encode(text, *flags), converted.encode(text, *flags)
            if expected != found:
                sample = text if len(text) <= 40 else text[:40] + "..."
                raise ModelError(
                    f"{path}: this tokenizer does what GGUF cannot say: "
                    f"{sample!r} is {_first_difference(expected, found)}"
                )


def _first_difference(expected: list[int], found: list[int]) -> str:
    start = next(i for i, (a, b) in enumerate(zip([*expected, -1], [*found, -1], strict=False)) if a != b)
    return f"{expected[start : start + 8]} from token {start} on, and in GGUF {found[start : start + 8]}"
