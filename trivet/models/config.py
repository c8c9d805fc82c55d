"""What an architecture needs to know of a model, from GGUF metadata or a Hugging Face `config.json`."""

from __future__ import annotations

from dataclasses import dataclass

from trivet.errors import ModelError
from trivet.graph.ops import Rotary
from trivet.weights.tensor import Checkpoint

MAX_LAYERS = 1024
MAX_WIDTH = 2**20
MAX_FREQUENCY = 1e6


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture's feed-forward: of `count` experts with `ffn_size` hidden units each, a token uses `used`.

    `dense_layers` have one plain feed-forward instead; with a count of 0, all have.
    """

    count: int = 0
    used: int = 0
    ffn_size: int = 0
    normalize: bool = True
    scale: float = 1.0
    dense_layers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One entry a layer: `rotaries`, and `windows` in tokens. A window or soft cap of 0 is none."""

    architecture: str
    vocab_size: int
    context_length: int
    """Tokens that the model was made for."""
    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    act: str
    rotaries: tuple[Rotary, ...]
    windows: tuple[int, ...]
    attention_scale: float
    attention_softcap: float
    logit_softcap: float
    embedding_scale: float
    tied: bool
    """The output matrix is the embedding table."""
    experts: Experts = Experts()

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, max_context: int | None = None) -> ModelConfig:
        """`max_context` is the longest sequence to be run, by default the model's own limit; it chooses
        between the short and the long factors of a LongRoPE model.

        Raises ModelError when a value is missing or absurd.
        """
        # Both import this module.
        from trivet.models import gguf_config, huggingface_config

        gguf = "general.architecture" in checkpoint.metadata
        config = (gguf_config if gguf else huggingface_config).read(checkpoint, max_context)
        config._check(checkpoint.path)
        return config

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def _check(self, path: str) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"{path}: {self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads, "
                "expected a divisor"
            )
        for rotary in set(self.rotaries):
            largest = max(*rotary.inv_freq, rotary.magnitude)
            if not largest <= MAX_FREQUENCY:
                raise ModelError(f"{path}: the rotary scaling gives a factor of {largest:g}, absurdly large")
        if self.experts.used > self.experts.count:
            raise ModelError(f"{path}: a token uses {self.experts.used} of {self.experts.count} experts")


def vocab_size_of(checkpoint: Checkpoint) -> int:
    """Rows of the embedding table."""
    info = checkpoint.tensors.get("token_embd.weight")
    if info is None:
        raise ModelError(f"{checkpoint.path}: tensor token_embd.weight is missing; is this only a vocabulary?")
    if len(info.shape) != 2:
        raise ModelError(f"{checkpoint.path}: tensor token_embd.weight has shape {list(info.shape)}, expected a matrix")
    return info.shape[0]
