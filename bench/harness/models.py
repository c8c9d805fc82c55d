"""The model files that are measured, and what a case asks of the machine at least."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.harness import mixture
from bench.harness.machine import Arithmetic, Limits, arithmetic
from bench.harness.process import Case
from bench.harness.random_weights import randomise_layers
from trivet.convert import as_gguf
from trivet.models.config import ModelConfig
from trivet.weights import open_checkpoint
from trivet.weights.export import export
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.mixes import MIXES

MAKER = Path(__file__).parents[3] / "shared/tools/make_model.py"


def source_model(name: str, folder: Path) -> tuple[Path, Path | None]:
    """A model's unquantised GGUF file and its Hugging Face folder, where it has one.

    name: a file, or a shape that `make_model.py` or `mixture.py` knows; such a model is made in `folder` unless it is
        there.
    """
    if Path(name).is_file():
        return Path(name), None
    home = folder / name
    gguf = home / f"{name}-bf16.gguf"
    if name in mixture.SHAPES:
        if not gguf.exists():
            vocabulary = open_checkpoint(str(source_model("smollm2-360m", folder)[0]))
            assert isinstance(vocabulary, GGUFFile)
            mixture.write_mixture(name, vocabulary, gguf)
        return gguf, None
    if not gguf.exists():
        if not MAKER.exists():
            raise SystemExit(f"{name} is no file, and {MAKER}, which makes shapes, is not there")
        subprocess.run([sys.executable, MAKER, name, home], check=True)
    return gguf, home / "hf"


def plain_name(source: Path) -> str:
    return source.stem.removesuffix("-bf16").removesuffix("-f32")


def quantised(source: Path, to: str, folder: Path) -> Path:
    """The model in a format, as `trivet quantize` writes it; made in `folder` unless it is there. Of a format that it
    does not write, the layers' matrices are random, and all else is that of Q4_K_M.
    """
    if to not in MIXES and to not in Format.__members__:
        raise SystemExit(f"{to} is no format; there are {', '.join(dict.fromkeys([*MIXES, *Format.__members__]))}")
    target = folder / f"{plain_name(source)}-{to.lower()}.gguf"
    if not target.exists():
        print(f"writing {target}", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        if to in MIXES:
            export(as_gguf(open_checkpoint(str(source))), target, to)
        else:
            base = open_checkpoint(str(quantised(source, "Q4_K_M", folder)))
            assert isinstance(base, GGUFFile)
            randomise_layers(base, Format[to], target)
    return target


@dataclass(frozen=True)
class Work:
    """What a model asks for: matrix weights in numbers and bytes, those of the output apart, those of experts again
    apart, what multiplies most of them, and what a token of context costs a token that looks at it.
    """

    layers: int
    head: int
    weight_bytes: int
    arithmetic: Arithmetic
    context_products: int
    context_bytes: int
    experts: int = 0
    expert_bytes: int = 0
    used: float = 0.0
    """The share of experts that a token uses."""

    def seconds(self, case: Case, limits: Limits) -> float:
        """The least time: as long as memory takes to bring all weights and contexts once, or the products, in the
        arithmetic of the format's kernel and attention's in bfloat16, whichever is longer. Of experts, as many are
        needed as tokens that choose by chance choose on average.
        """
        if case.tokens:
            rows, heads, looks = case.streams, case.streams, case.streams * case.context
            contexts, rounds = looks, case.tokens
        else:
            rows, heads, looks = case.context, 1, case.context**2 / 2
            contexts, rounds = case.context, 1
        products = rows * (self.layers + self.used * self.experts) + heads * self.head
        computing = products / limits.products(self.arithmetic) + looks * self.context_products / limits.bf16
        weights = self.weight_bytes + self.expert_bytes * (1 - (1 - self.used) ** rows)
        memory = (weights + contexts * self.context_bytes) / limits.read
        return max(computing, memory) * rounds


def work(path: Path) -> Work:
    checkpoint = open_checkpoint(str(path))
    config = ModelConfig.from_checkpoint(checkpoint)
    output = "output.weight" if "output.weight" in checkpoint.tensors else "token_embd.weight"
    matrices = {
        name: info
        for name, info in checkpoint.tensors.items()
        if len(info.shape) > 1 and (name != "token_embd.weight" or name == output)
    }
    head = math.prod(matrices[output].shape)
    experts = [info for info in matrices.values() if len(info.shape) == 3]
    in_experts = sum(math.prod(info.shape) for info in experts)
    expert_bytes = sum(info.num_bytes for info in experts)
    size = sum(info.num_bytes for info in matrices.values())
    sizes = Counter[Arithmetic]()
    for info in matrices.values():
        sizes[arithmetic(info.format)] += info.num_bytes
    return Work(
        layers=sum(math.prod(info.shape) for info in matrices.values()) - head - in_experts,
        head=head,
        weight_bytes=size - expert_bytes,
        arithmetic=sizes.most_common(1)[0][0],
        context_products=2 * config.num_layers * config.q_size,
        context_bytes=2 * 2 * config.num_layers * config.kv_size,
        experts=in_experts,
        expert_bytes=expert_bytes,
        used=config.experts.used / config.experts.count if config.experts.count else 0.0,
    )
