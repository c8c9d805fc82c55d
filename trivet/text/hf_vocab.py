"""The tokenizer of a Hugging Face folder: `tokenizer.json` and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trivet.errors import ModelError
from trivet.text.pipeline import encode
from trivet.text.vocabulary import (
    Encoder,
    Vocabulary,
    byte_level_piece,
    byte_token_value,
    end_of_generation,
    fill_in_the_middle,
)

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "mask_token", "cls_token")


def load_hf_vocabulary(path: Path) -> tuple[Vocabulary, Encoder]:
    """Read a folder or a bare `tokenizer.json`. Raises ModelError."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{path}: there is no tokenizer.json (other kinds of tokenizer file are not read)")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{file}: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    folder = _Folder(path if path.is_dir() else None)
    vocabulary = _vocabulary(file, tokenizer, folder)
    return vocabulary, _Encoder(tokenizer, _added_around(tokenizer, vocabulary, folder.settings))


class _Folder:
    """What the files beside `tokenizer.json` say; nothing where there are none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.settings = self._json("special_tokens_map.json") | self._json("tokenizer_config.json")

    def role(self, name: str) -> str | None:
        """The text of the token with a role such as `bos_token`."""
        token = self.settings.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        return token if isinstance(token, str) else None

    def declared_ids(self, key: str) -> list[int]:
        """Ids under `key` in the generation and model configurations."""
        found: list[int] = []
        for name in ("generation_config.json", "config.json"):
            value = self._json(name).get(key)
            found += value if isinstance(value, list) else [] if value is None else [value]
        return [i for i in found if isinstance(i, int)]

    def chat_templates(self) -> dict[str, str]:
        sources = (self._json("chat_template.json"), self.settings, self._json("processor_config.json"))
        listed = next((source["chat_template"] for source in sources if source.get("chat_template")), None)
        templates = {"default": listed} if isinstance(listed, str) else {}
        if isinstance(listed, list):
            named = (entry for entry in listed if isinstance(entry, dict) and {"name", "template"} <= entry.keys())
            templates = {str(entry["name"]): str(entry["template"]) for entry in named}
        if self._path is not None:
            files = {"default": self._path / "chat_template.jinja"}
            files |= {file.stem: file for file in (self._path / "additional_chat_templates").glob("*.jinja")}
            templates |= {name: _read(file) for name, file in files.items() if file.is_file()}
        return templates

    def _json(self, name: str) -> dict[str, Any]:
        if self._path is None or not (self._path / name).is_file():
            return {}
        text = _read(self._path / name)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self._path / name}: not valid JSON: {error}") from None
        return content if isinstance(content, dict) else {}


class _Encoder:
    """The whole of a `tokenizers` pipeline as an Encoder."""

    def __init__(self, tokenizer: Tokenizer, added: tuple[list[int], list[int]]) -> None:
        self._tokenizer = tokenizer
        self._before, self._after = added

    def __call__(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        if not parse_special:
            return self._encode_plainly(text, add_special)
        ids = encode(self._tokenizer, text, add_special).ids
        return [*self._before, *ids, *self._after] if add_special else ids

    def _encode_plainly(self, text: str, add_special: bool) -> list[int]:
        tokenizer, originals = self._without_special
        ids = [originals.get(i, i) for i in encode(tokenizer, text).ids]
        if not add_special:
            return ids
        inside, around = self("a", False, True), self("a", True, True)
        start = next(i for i in range(len(around) + 1) if around[i : i + len(inside)] == inside)
        return [*around[:start], *ids, *around[start + len(inside) :]]

    @cached_property
    def _without_special(self) -> tuple[Tokenizer, dict[int, int]]:
        """The same tokenizer (and not a copy of its vocabulary) that does not look for special tokens, and the ids
        that it numbers differently.
        """
        whole = self._tokenizer
        tokenizer = Tokenizer(whole.model)
        if whole.normalizer is not None:
            tokenizer.normalizer = whole.normalizer
        if whole.pre_tokenizer is not None:
            tokenizer.pre_tokenizer = whole.pre_tokenizer
        plain = {i: token for i, token in sorted(whole.get_added_tokens_decoder().items()) if not token.special}
        tokenizer.add_tokens(list(plain.values()))
        ids = {tokenizer.token_to_id(token.content): i for i, token in plain.items()}
        return tokenizer, {own: i for own, i in ids.items() if own is not None and own != i}


def _vocabulary(file: Path, tokenizer: Tokenizer, folder: _Folder) -> Vocabulary:
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [""] * (max(ids.values(), default=-1) + 1)
    for token, i in ids.items():
        tokens[i] = token
    added = tokenizer.get_added_tokens_decoder()
    special = frozenset(i for i, token in added.items() if token.special)
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {"type": "Fuse"}
    decode, drops_space = _token_decoder(file, decoder)
    verbatim = frozenset(added) if decode is byte_level_piece else special
    names = {role: text for role in _ROLES if (text := folder.role(role)) is not None}
    bos = [ids[names["bos_token"]]] if names.get("bos_token") in ids else folder.declared_ids("bos_token_id")
    eos = [ids[names["eos_token"]]] if names.get("eos_token") in ids else []
    known = end_of_generation({added[i].content: i for i in special})
    eos = list(dict.fromkeys([*eos, *folder.declared_ids("eos_token_id"), *sorted(known)]))
    return Vocabulary(
        tokens=tokens,
        piece=lambda i: tokens[i].encode() if i in verbatim else decode(tokens[i]),
        special=special,
        drops_space=drops_space,
        bos_id=bos[0] if bos else None,
        eos_ids=[i for i in eos if 0 <= i < len(tokens)],
        names=names,
        chat_templates=folder.chat_templates(),
        fim=fill_in_the_middle(ids),
        kind={"WordPiece": "wpm", "Unigram": "ugm"}.get(type(tokenizer.model).__name__, "bpe"),
    )


def _added_around(
    tokenizer: Tokenizer, vocabulary: Vocabulary, settings: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Ids to put around a text where `tokenizer.json` leaves that to the settings."""
    if tokenizer.post_processor is not None:
        return [], []
    bos = [vocabulary.bos_id] if settings.get("add_bos_token") and vocabulary.bos_id is not None else []
    return bos, vocabulary.eos_ids[:1] if settings.get("add_eos_token") else []


def _token_decoder(file: Path, decoder: Mapping[str, Any]) -> tuple[Callable[[str], bytes], bool]:
    """A decoder of `tokenizer.json` as a function from one token to its bytes, and whether a text loses the space it
    begins with.
    """
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if any(step["type"] == "ByteLevel" for step in steps):
        return byte_level_piece, False
    byte_fallback = False
    drops_space = False
    replacements: list[tuple[str, str]] = []
    continuing = None
    for step in steps:
        match step["type"]:
            case "Replace" if "String" in step["pattern"]:
                replacements.append((step["pattern"]["String"], step["content"]))
            case "ByteFallback":
                byte_fallback = True
            case "Strip" if step["content"] == " " and step["start"] <= 1 and step["stop"] == 0:
                drops_space = step["start"] == 1
            case "Metaspace":
                replacements.append((step["replacement"], " "))
                drops_space = step.get("prepend_scheme", "always") != "never"
            case "WordPiece":
                continuing, drops_space = step["prefix"], True
            case "Fuse":
                pass
            case _:
                raise ModelError(f"{file}: the decoder {json.dumps(step)} is not supported")

    def decode(token: str) -> bytes:
        if byte_fallback and (byte := byte_token_value(token)) is not None:
            return bytes([byte])
        for old, new in replacements:
            token = token.replace(old, new)
        if continuing is not None:
            token = token.removeprefix(continuing) if token.startswith(continuing) else " " + token
        return token.encode()

    return decode, drops_space


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{file}: not UTF-8: {error}") from None
