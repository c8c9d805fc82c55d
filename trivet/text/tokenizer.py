"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trivet.errors import RequestError
from trivet.text.vocabulary import Encoder, Vocabulary
from trivet.weights.tensor import Checkpoint


class Tokenizer:
    """A model's tokenizer. Safe to share between threads.

    vocab_size: ids are below it.
    bos_id: the token that begins a text; eos_ids: all that end a generation.
    names: texts of special tokens by role (`bos_token`, …). chat_templates: by name.
    kind: "bpe", "spm", "wpm" or "ugm", see Vocabulary.
    fim: ids of the tokens for filling in the middle by role (`pre`, `suf`, `mid`, …); empty where there are none.
    """

    def __init__(self, vocabulary: Vocabulary, encoder: Encoder) -> None:
        self._tokens = vocabulary.tokens
        self._piece = vocabulary.piece
        self._pieces: list[bytes | None] = [None] * len(vocabulary.tokens)
        self._special = vocabulary.special
        self._encoder = encoder
        self.drops_space = vocabulary.drops_space
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids
        self.names: Mapping[str, str] = vocabulary.names
        self.chat_templates: Mapping[str, str] = vocabulary.chat_templates
        self.kind = vocabulary.kind
        self.fim: Mapping[str, int] = vocabulary.fim

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Load from a GGUF file, a Hugging Face folder or a `tokenizer.json`. Raises ModelError."""
        path = Path(path)
        own = (path / "tokenizer.json").is_file() or (any(path.glob("tokenizer*")) and not any(path.glob("*.gguf")))
        if own or path.suffix == ".json":
            return cls._from_json(path)
        from trivet.weights import open_checkpoint

        return cls.from_checkpoint(open_checkpoint(path))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Tokenizer:
        """The tokenizer of an open model. Raises ModelError."""
        if Path(checkpoint.path).is_dir():
            return cls._from_json(Path(checkpoint.path))
        return cls._from_metadata(checkpoint.metadata, checkpoint.path)

    @classmethod
    def _from_json(cls, path: Path) -> Tokenizer:
        from trivet.text.hf_vocab import load_hf_vocabulary

        return cls(*load_hf_vocabulary(path))

    @classmethod
    def _from_metadata(cls, metadata: Mapping[str, Any], path: str) -> Tokenizer:
        from trivet.text.gguf_vocab import load_gguf_vocabulary

        return cls(*load_gguf_vocabulary(metadata, path))

    def widen(self, size: int) -> None:
        """Let the ids from `vocab_size` to below `size` stand for no text: the embeddings of many models are padded
        to more rows than there are tokens, and a padding row can be drawn.
        """
        self._pieces += [b""] * (size - self.vocab_size)
        self.vocab_size = max(self.vocab_size, size)

    @property
    def chat_template(self) -> str | None:
        """The model's own chat template."""
        return self.chat_templates.get("default")

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Turn text into ids.

        add_special: put BOS, EOS and the like around it where the model's file says so.
        parse_special: take the text of a special token (`<|im_end|>`) for that token; otherwise it is plain text.

        Raises RequestError when `text` is not valid Unicode.
        """
        if not isinstance(text, str):
            raise RequestError(f"the prompt must be text, not {type(text).__name__}", "prompt")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt is not valid Unicode: half of a surrogate pair (U+{ord(text[error.start]):04X}) "
                f"at character {error.start}",
                "prompt",
            ) from None
        return self._encoder(text, add_special, parse_special)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Turn ids into text; bytes that are not UTF-8 become U+FFFD. Raises RequestError at an id out of range."""
        pieces = b"".join(self.token_bytes(i) for i in ids if not (skip_special and self.is_special(i)))
        if self.drops_space:
            pieces = pieces.removeprefix(b" ")
        return pieces.decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """What an id adds to a text; it may be a part of a character. Raises RequestError when out of range."""
        piece = self._pieces[token] if 0 <= token < self.vocab_size else self._refuse(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        return piece

    def token_text(self, token: int) -> str:
        """`token_bytes` as text, with U+FFFD for incomplete characters. Raises RequestError when out of range."""
        return self.token_bytes(token).decode(errors="replace")

    def spelling(self, token: int) -> str:
        """How the model's file spells an id: `▁the`, `Ġthe`; "" for one that only pads the vocabulary."""
        return self._tokens[token] if 0 <= token < len(self._tokens) else ""

    def is_special(self, token: int) -> bool:
        """Whether an id is markup, such as BOS, rather than text."""
        return token in self._special

    def _refuse(self, token: int) -> bytes:
        raise RequestError(f"token id {token} is out of range: the vocabulary has {self.vocab_size} tokens", "prompt")
