"""Writes tokenizers.json: what llama.cpp encodes texts to, with the vocabularies of tests/text/vocabs.py.

    python -m tests.oracles.make_tokenizers

Needs llama-cpp-python and ../shared.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from tests.text.test_pre_tokenizers import AS_LLAMA_CPP, TEXTS, probe
from tests.text.vocabs import KINDS, metadata, text
from trivet.weights.gguf_writer import GGUFWriter

SEEDS = 25
TEXTS_OF_EACH = 4


class LlamaCppTokenizer:
    """llama.cpp's, through the llama-cpp-python package."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        import llama_cpp

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocab.gguf"
            write_vocabulary(path, metadata)
            self.model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return self.model.tokenize(text.encode(), add_special, parse_special)


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> None:
    sizes = {"context_length": 8, "embedding_length": 8, "block_count": 1, "attention.head_count": 1}
    about = {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in sizes.items()}
    about |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.feed_forward_length": 8}
    with GGUFWriter(path, about | metadata, []):
        pass


def main() -> None:
    found: dict[str, Any] = {}
    for kind in KINDS:
        for seed in range(SEEDS):
            draw = random.Random(seed)
            oracle = LlamaCppTokenizer(metadata(kind, seed))
            for _ in range(TEXTS_OF_EACH):
                case = (text(kind, draw), draw.random() < 0.3, draw.random() < 0.5)
                found.setdefault(kind, {}).setdefault(seed, []).append([*case, oracle.encode(*case)])
    for pre in AS_LLAMA_CPP:
        oracle = LlamaCppTokenizer(probe(pre))
        found.setdefault("pre", {})[pre] = [oracle.encode(text, False, False) for text in TEXTS]
    Path(__file__).with_name("tokenizers.json").write_text(json.dumps(found, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
