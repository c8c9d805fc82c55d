"""The tokenizer that a GGUF's metadata describes (`tokenizer.ggml.*`), by llama.cpp's rules and defaults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import IntEnum
from itertools import chain
from typing import Any

from trivet._native import EncodedStrings, TokenTable
from trivet.text.bpe import bpe_encoder
from trivet.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from trivet.text.sentencepiece import sentencepiece_encoder
from trivet.text.special_tokens import SpecialTokens
from trivet.text.vocabulary import (
    FIM_ROLES,
    SPACE,
    Encoder,
    Vocabulary,
    byte_level_piece,
    byte_token_value,
    end_of_generation,
    fill_in_the_middle,
)
from trivet.text.wordpiece import wordpiece_encoder
from trivet.weights.fields import Fields
from trivet.weights.gguf_values import Metadata

logger = logging.getLogger(__name__)


class TokenType(IntEnum):
    """Of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_MODELS = ("bert", "gemma4", "gpt2", "llama")
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
}
_NAMES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "mask_token": "mask",
}
"""What chat templates call a role, and what GGUF calls it (the spelling is its own)."""
_ROLES = (*_NAMES.values(), "eot", "eom", *(f"fim_{role}" for role in FIM_ROLES))
_END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>")
"""Harmony's tokens, unless they end a generation."""
_PHI3_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")


def load_gguf_vocabulary(metadata: Mapping[str, Any], path: str) -> tuple[Vocabulary, Encoder]:
    """Raises ModelError, naming `path`, when there is no tokenizer, or one that is damaged or of an unknown kind."""
    found = _GGUFVocabulary(Fields(path, metadata, "tokenizer.ggml."))
    return found.vocabulary(), found.encoder()


class _GGUFVocabulary:
    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.model = fields.choice("model", _MODELS)
        self.is_bert = self.model == "bert"
        self.pre = self._pre_tokenizer() if self.model in ("gpt2", "gemma4") else None
        self.tokens = self._texts("tokens")
        if not self.tokens:
            raise fields.error("tokens", [], "at least one token")
        self.ids = TokenTable(self.tokens)
        if "" in self.ids:
            self.tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(self.tokens)]
            self.ids = TokenTable(self.tokens)
        self.types = self._list_for_tokens("token_type", int, TokenType.NORMAL)
        self.roles = self._special_ids()
        self.ends = self._find_ends()
        self.of_type: dict[int, list[int]] = {kind: [] for kind in TokenType}
        normal = int(TokenType.NORMAL)
        for i, kind in [(i, kind) for i, kind in enumerate(self.types) if kind != normal]:
            self.of_type.setdefault(kind, []).append(i)
        self.adds_space = fields.boolean("add_space_prefix", self.model == "llama")

    def vocabulary(self) -> Vocabulary:
        eos = self.roles.get("eos")
        return Vocabulary(
            tokens=self.tokens,
            piece=self._piece,
            special=frozenset(self.of_type[TokenType.CONTROL] + self.of_type[TokenType.UNKNOWN]),
            drops_space=self.adds_space or self.is_bert,
            bos_id=self.roles.get("bos"),
            eos_ids=([] if eos is None else [eos]) + sorted(self.ends - {eos}),
            names={name: self.tokens[self.roles[role]] for name, role in _NAMES.items() if role in self.roles},
            chat_templates=self._chat_templates(),
            kind={"llama": "spm", "bert": "wpm"}.get(self.model, "bpe"),
            fim={role: self.roles[f"fim_{role}"] for role in FIM_ROLES if f"fim_{role}" in self.roles},
        )

    def encoder(self) -> Encoder:
        encode_text = self._text_encoder()
        always = self._special_tokens(TokenType.USER_DEFINED)
        with_special = self._special_tokens(TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)
        before, after = self._surroundings()

        def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
            parts = (with_special if parse_special else always).split(text)
            ids = list(chain.from_iterable([part] if isinstance(part, int) else encode_text(part) for part in parts))
            return [*before, *ids, *after] if add_special else ids

        return encode

    def _text_encoder(self) -> Callable[[str], list[int]]:
        """Encodes what is between the tokens that are looked for in the text itself."""
        unknown = self.roles.get("unknown", 0)
        if self.pre is not None:
            return bpe_encoder(self.tokens, self.ids, self._texts("merges"), self.pre)
        if self.is_bert:
            lowercase = self.fields.boolean("normalizer.lowercase", True)
            strip_accents = self.fields.boolean("normalizer.strip_accents", lowercase)
            ids = {token: i for i, token in enumerate(self.tokens)}
            return wordpiece_encoder(ids, unknown, lowercase, strip_accents)
        scores = self._list_for_tokens("scores", (int, float), 0.0)
        apart = [i for kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE) for i in self.of_type[kind]]
        return sentencepiece_encoder(self.tokens, self.ids, scores, apart, unknown, self.adds_space)

    def _special_tokens(self, *kinds: TokenType) -> SpecialTokens:
        return SpecialTokens({self.tokens[i]: i for kind in kinds for i in self.of_type[kind]}, *self._strippers())

    def _surroundings(self) -> tuple[list[int], list[int]]:
        """The ids that go before and after a text."""
        by_default = self.pre.add_bos if self.pre is not None else self.model == "llama"
        adds_bos = self.fields.boolean("add_bos_token", by_default) or self.model == "gemma4" or self.is_bert
        adds_eos = self.fields.boolean("add_eos_token", False) or self.is_bert
        before = self.roles.get("bos") if adds_bos else None
        after = self.roles.get("seperator" if self.is_bert else "eos") if adds_eos else None
        return [before] if before is not None else [], [after] if after is not None else []

    def _piece(self, i: int) -> bytes:
        token, kind = self.tokens[i], self.types[i]
        if kind == TokenType.NORMAL:
            byte_level = self.pre is not None and self.pre.byte_level
            return byte_level_piece(token) if byte_level else token.replace(SPACE, " ").encode()
        if kind == TokenType.BYTE and (byte := byte_token_value(token)) is not None:
            return bytes([byte])
        return token.encode() if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED) else b""

    def _strippers(self) -> tuple[list[int], list[int]]:
        """Tokens that swallow the whitespace before and after them. GGUF does not say; llama.cpp knows these models."""
        name, arch = (str(self.fields.values.get(f"general.{key}", "")).lower() for key in ("name", "architecture"))
        pre = self.fields.values.get("tokenizer.ggml.pre")
        if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code") or arch in ("nomic-bert-moe", "jina-bert-v3"):
            return [self.ids["<mask>"]] if "<mask>" in self.ids else [], []
        if "phi-3" in name or "phi3" in name:
            keep = {self.ids.get(token, -1) for token in _PHI3_KEEPS_SPACE}
            return [], [i for ids in self.of_type.values() for i in ids if i not in keep]
        if "modern-bert" in name:
            return [self.ids["[MASK]"]] if "[MASK]" in self.ids else [], []
        return [], []

    def _special_ids(self) -> dict[str, int]:
        size = len(self.tokens)
        roles = {role: i for role, i in _DEFAULT_IDS.get(self.model, {}).items() if i < size}
        for role in _ROLES:
            if (key := f"{role}_token_id") in self.fields:
                found = self.fields.integer(key, low=-(2**31), high=2**32 - 1)
                if 0 <= found < size:
                    roles[role] = found
                else:
                    logger.warning("%s; it is ignored", self.fields.error(key, found, f"one of the {size} tokens"))
        for role, token in fill_in_the_middle(self.ids).items():
            if f"fim_{role}" not in roles:
                roles[f"fim_{role}"] = token
                self.types[token] = TokenType.CONTROL
        return roles

    def _find_ends(self) -> set[int]:
        """All ids that end a generation. Those known by their text become control tokens, whatever the file says."""
        known = end_of_generation(self.ids)
        for i in known:
            self.types[i] = TokenType.CONTROL
        for token in _ALWAYS_SHOWN:
            if token in self.ids and self.ids[token] not in known:
                self.types[self.ids[token]] = TokenType.USER_DEFINED
        return known | {self.roles[role] for role in _END_ROLES if role in self.roles}

    def _chat_templates(self) -> dict[str, str]:
        key = "tokenizer.chat_template"
        values = self.fields.values
        named = {name.removeprefix(key + "."): values[name] for name in values if name.startswith(key + ".")}
        if key in values:
            named["default"] = values[key]
        return {name: text for name, text in named.items() if isinstance(text, str)}

    def _pre_tokenizer(self) -> PreTokenizer:
        if self.model == "gemma4":
            return PRE_TOKENIZERS["gemma4"]
        return PRE_TOKENIZERS[self.fields.choice("pre", PRE_TOKENIZERS, "default")]

    def _texts(self, key: str) -> list[str] | EncodedStrings:
        """A list of texts; that of a file stays there."""
        values = self.fields.values
        found = values.encoded(self.fields.prefix + key) if isinstance(values, Metadata) else None
        return found if isinstance(found, EncodedStrings) else self._list(key, str)

    def _list(self, key: str, kind: type | tuple[type, ...]) -> list[Any]:
        values = self.fields.values.get(self.fields.prefix + key, [])
        kinds = set(kind) if isinstance(kind, tuple) else {kind}
        if not isinstance(values, list) or not set(map(type, values)) <= kinds:
            raise self.fields.error(key, values, "a list of " + ("texts" if kind is str else "numbers"))
        return values

    def _list_for_tokens(self, key: str, kind: type | tuple[type, ...], default: Any) -> list[Any]:
        """An item for each token; the default where the file has no such list."""
        size = len(self.tokens)
        values = self._list(key, kind) or [default] * size
        if len(values) < size:
            raise self.fields.error(key, values, f"{size} items, one for each token")
        return values[:size]
