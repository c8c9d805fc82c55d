"""The tokenizer that a GGUF's metadata describes (`tokenizer.ggml.*`), by llama.cpp's rules and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from itertools import chain
from typing import Any

from trivet.errors import ModelError
from trivet.text.bpe import bpe_encoder
from trivet.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from trivet.text.sentencepiece import PieceType, unigram_encoder
from trivet.text.sentencepiece import bpe_encoder as sentencepiece_encoder
from trivet.text.special_tokens import SpecialTokens
from trivet.text.vocabulary import (
    SPACE,
    Encoder,
    Vocabulary,
    byte_level_piece,
    byte_token_value,
    check_token_id,
    end_of_generation,
)
from trivet.text.wordpiece import wordpiece_encoder

_PREFIX = "tokenizer.ggml."
_BPE_MODELS = ("gpt2", "gemma4")
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
}
_ROLES = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "mask_token": "mask",
}
_END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_FILL_IN_THE_MIDDLE = {
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
"""Texts by which the token for a role is known where the file does not name it."""
_ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>")
"""Harmony's tokens, unless they end a generation."""
_LOOKED_FOR = frozenset((PieceType.CONTROL, PieceType.UNKNOWN, PieceType.USER_DEFINED))
"""Types of tokens that are found in a text before it is cut; without `parse_special`, only the last."""
_PHI3_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")


def load_gguf_vocabulary(metadata: Mapping[str, Any]) -> tuple[Vocabulary, Encoder]:
    """Raises ModelError when the metadata holds no tokenizer, one of an unknown kind or one that is damaged."""
    vocab = _GGUFVocabulary(metadata)
    return vocab.vocabulary(), vocab.encoder()


class _GGUFVocabulary:
    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.model = self._get("model", str, "none")
        if self.model not in (*_DEFAULT_IDS, *_BPE_MODELS):
            known = ", ".join(sorted([*_DEFAULT_IDS, *_BPE_MODELS]))
            raise ModelError(f"tokenizer.ggml.model is {self.model!r}; supported are {known}")
        self.pre = self._pre_tokenizer() if self.model in _BPE_MODELS else None
        self.tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(self._list("tokens", str))]
        if not self.tokens:
            raise ModelError("tokenizer.ggml.tokens is missing or empty")
        self.types = self._list("token_type", int, PieceType.NORMAL)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.roles = self._special_ids()
        self.end = self._find_end_of_generation()
        self.adds_bos = self._get("add_bos_token", bool, self.pre.add_bos if self.pre else self.model == "llama")
        self.adds_eos = self._get("add_eos_token", bool, self.model == "t5")
        self.adds_space = self._get("add_space_prefix", bool, self.model == "llama")
        if self.model == "gemma4":
            self.adds_bos = True

    def vocabulary(self) -> Vocabulary:
        eos = self.roles.get("eos")
        return Vocabulary(
            tokens=self.tokens,
            piece=self._piece,
            special=frozenset(i for i, kind in enumerate(self.types) if kind in (PieceType.CONTROL, PieceType.UNKNOWN)),
            drops_space=self.adds_space or self.model in ("bert", "t5"),
            bos_id=self.roles.get("bos"),
            eos_ids=([] if eos is None else [eos]) + sorted(self.end - {eos}),
            names={name: self.tokens[self.roles[role]] for name, role in _ROLES.items() if role in self.roles},
            chat_templates=self._chat_templates(),
        )

    def encoder(self) -> Encoder:
        encode_text = self._text_encoder()
        always = SpecialTokens(self._tokens_of({PieceType.USER_DEFINED}), *self._strippers())
        with_special = SpecialTokens(self._tokens_of(_LOOKED_FOR), *self._strippers())
        before, after = self._surroundings()

        def encode(text: str, add_special: bool, parse_special: bool) -> list[int]:
            parts = (with_special if parse_special else always).split(text)
            ids = list(chain.from_iterable([part] if isinstance(part, int) else encode_text(part) for part in parts))
            return [*before, *ids, *after] if add_special else ids

        return encode

    def _text_encoder(self) -> Callable[[str], list[int]]:
        unknown = self.roles.get("unknown", 0)
        if self.pre is not None:
            return bpe_encoder(self.tokens, self._list("merges", str), self.pre)
        if self.model == "bert":
            lowercase = self._get("normalizer.lowercase", bool, True)
            strip_accents = self._get("normalizer.strip_accents", bool, lowercase)
            return wordpiece_encoder(self.tokens, unknown, lowercase, strip_accents)
        scores = self._list("scores", (int, float), 0.0)
        if self.model == "llama":
            return sentencepiece_encoder(self.tokens, scores, self.types, unknown, self.adds_space)
        charsmap = bytes(byte & 0xFF for byte in self._get("precompiled_charsmap", list, []))
        squeeze = self._get("remove_extra_whitespaces", bool, False)
        return unigram_encoder(self.tokens, scores, self.types, unknown, charsmap, self.adds_space, squeeze)

    def _surroundings(self) -> tuple[list[int], list[int]]:
        """The ids that go before and after a text."""
        bert = self.model == "bert"
        before = self.roles.get("bos") if bert or self.adds_bos else None
        after = self.roles.get("seperator" if bert else "eos") if bert or self.adds_eos else None
        return [before] if before is not None else [], [after] if after is not None else []

    def _piece(self, i: int) -> bytes:
        token, kind = self.tokens[i], self.types[i]
        if kind in _LOOKED_FOR:
            return token.encode()
        if kind == PieceType.BYTE and (byte := byte_token_value(token)) is not None:
            return bytes([byte])
        if kind != PieceType.NORMAL:
            return b""
        if self.pre is not None and self.pre.byte_level:
            return byte_level_piece(token)
        return token.replace(SPACE, " ").encode()

    def _tokens_of(self, kinds: Set[PieceType]) -> dict[str, int]:
        return {self.tokens[i]: i for i, kind in enumerate(self.types) if kind in kinds}

    def _strippers(self) -> tuple[list[int], list[int]]:
        """Tokens that swallow the whitespace before and after them. GGUF does not say; llama.cpp knows these models."""
        name = str(self._metadata.get("general.name", "")).lower()
        arch = str(self._metadata.get("general.architecture", ""))
        pre = str(self._metadata.get(f"{_PREFIX}pre", ""))
        if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code") or arch in ("nomic-bert-moe", "jina-bert-v3"):
            return [self.ids["<mask>"]] if "<mask>" in self.ids else [], []
        if "phi-3" in name or "phi3" in name:
            keep = {self.ids.get(token) for token in _PHI3_KEEPS_SPACE}
            return [], [i for i, kind in enumerate(self.types) if kind in _LOOKED_FOR and i not in keep]
        if "modern-bert" in name:
            return [self.ids["[MASK]"]] if "[MASK]" in self.ids else [], []
        return [], []

    def _special_ids(self) -> dict[str, int]:
        roles = dict(_DEFAULT_IDS.get(self.model, {}))
        for role in (
            "bos",
            "eos",
            "eot",
            "eom",
            "unknown",
            "seperator",
            "padding",
            "mask",
            "cls",
            *_FILL_IN_THE_MIDDLE,
        ):
            key = f"{_PREFIX}{role}_token_id"
            if key in self._metadata:
                roles[role] = check_token_id(self._metadata[key], len(self.tokens), key)
        roles = {role: i for role, i in roles.items() if i < len(self.tokens)}
        for role, texts in _FILL_IN_THE_MIDDLE.items():
            found = next((self.ids[text] for text in texts.split() if text in self.ids), None)
            if role not in roles and found is not None:
                roles[role] = found
                self.types[found] = PieceType.CONTROL
        return roles

    def _find_end_of_generation(self) -> set[int]:
        """All ids that end a generation; their tokens become control tokens, whatever the file says they are."""
        known = end_of_generation(self.ids)
        for i in known:
            self.types[i] = PieceType.CONTROL
        for token in _ALWAYS_SHOWN:
            if token in self.ids and self.ids[token] not in known:
                self.types[self.ids[token]] = PieceType.USER_DEFINED
        return known | {self.roles[role] for role in _END_ROLES if role in self.roles}

    def _chat_templates(self) -> dict[str, str]:
        key = "tokenizer.chat_template"
        named = {k.removeprefix(key + "."): v for k, v in self._metadata.items() if k.startswith(key + ".")}
        if key in self._metadata:
            named["default"] = self._metadata[key]
        return {name: template for name, template in named.items() if isinstance(template, str)}

    def _pre_tokenizer(self) -> PreTokenizer:
        pre = "gemma4" if self.model == "gemma4" else self._get("pre", str, "default")
        if pre not in PRE_TOKENIZERS:
            known = ", ".join(sorted(PRE_TOKENIZERS))
            raise ModelError(f"tokenizer.ggml.pre is {pre!r}, which is not known; known are {known}")
        return PRE_TOKENIZERS[pre]

    def _get(self, key: str, kind: type, default: Any) -> Any:
        value = self._metadata.get(_PREFIX + key, default)
        if not isinstance(value, kind):
            raise ModelError(f"{_PREFIX}{key} is {value!r}; it must be of type {kind.__name__}")
        return value

    def _list(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> list[Any]:
        """A list of the file with an item for each token; of defaults where it is missing and there is a default."""
        values = self._get(key, list, [])
        if not values and default is not None:
            return [default] * len(self.tokens)
        wrong = next((value for value in values if not isinstance(value, kind)), None)
        if wrong is not None:
            raise ModelError(f"{_PREFIX}{key} holds {wrong!r}, which is of the wrong type")
        if default is not None and len(values) < len(self.tokens):
            raise ModelError(f"{_PREFIX}{key} has {len(values)} items for {len(self.tokens)} tokens")
        return list(values[: len(self.tokens)]) if default is not None else values
