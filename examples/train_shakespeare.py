#!/usr/bin/env python3
"""Train the built-in model: a 3.4M-parameter Llama that writes in the manner of Shakespeare's plays.

    python examples/train_shakespeare.py ../shared/data/tinyshakespeare.txt OUT --minutes 45
    trivet convert OUT trivet/assets/shakespeare.gguf --to Q8_0

OUT becomes a Hugging Face folder (config.json, tokenizer.json, model.safetensors in float32). The last tenth
of the text is held out; the loss on it is printed and written to OUT/loss.json. Needs: torch, tokenizers,
safetensors, rich.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END = "<|endoftext|>"
# A conversation is set as a scene between two citizens, the form the model has read.
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}Second Citizen:\n{% elif m['role'] == 'user' %}"
    "First Citizen:\n{% endif %}{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Second Citizen:\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """All sizes that quantised rows run along are multiples of 256, so that every GGUF format fits."""

    vocab: int = 1024
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 768
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5
    dropout: float = 0.1


def linear(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout; `cos` and `sin` are [tokens, head_dim / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Layer(nn.Module):
    """One decoder layer; parameter names are those of Hugging Face's Llama."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.s = s
        self.input_layernorm = nn.RMSNorm(s.hidden, s.eps)
        self.post_attention_layernorm = nn.RMSNorm(s.hidden, s.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": linear(q, s.hidden),
                "k_proj": linear(kv, s.hidden),
                "v_proj": linear(kv, s.hidden),
                "o_proj": linear(s.hidden, q),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": linear(s.ffn, s.hidden),
                "up_proj": linear(s.ffn, s.hidden),
                "down_proj": linear(s.hidden, s.ffn),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        s, a, m = self.s, self.self_attn, self.mlp
        batch, tokens, _ = x.shape
        y = self.input_layernorm(x)
        q = a["q_proj"](y).view(batch, tokens, s.heads, s.head_dim).transpose(1, 2)
        k = a["k_proj"](y).view(batch, tokens, s.kv_heads, s.head_dim).transpose(1, 2)
        v = a["v_proj"](y).view(batch, tokens, s.kv_heads, s.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = a["o_proj"](y.transpose(1, 2).reshape(batch, tokens, -1))
        x = x + F.dropout(y, s.dropout, self.training)
        y = self.post_attention_layernorm(x)
        y = m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))
        return x + F.dropout(y, s.dropout, self.training)


class Llama(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.hidden, s.eps)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                scale = (2 * s.layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(p, std=0.02 if "embed" in name else scale * p.shape[1] ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocab]."""
        s = self.s
        frequency = s.theta ** (-torch.arange(0, s.head_dim, 2) / s.head_dim)
        angle = torch.outer(torch.arange(ids.shape[1]), frequency)
        x = F.dropout(self.embed_tokens(ids), s.dropout, self.training)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin())
        return F.linear(self.norm(x), self.embed_tokens.weight)


def train_tokenizer(text: str, vocab: int) -> Tokenizer:
    """Byte-level BPE of `vocab` tokens with GPT-2's split into words; id 0 is the end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices (Jordan et al. 2024), with AdamW's update size (Liu et al. 2025).

    In float32: torch.optim.Muon works in bfloat16, which most CPUs emulate.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                x = p.grad.lerp(momentum, 0.95)
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):  # quintic Newton-Schulz towards U V^T
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if tall else x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x, alpha=-group["lr"] * 0.2 * max(x.shape) ** 0.5)


def windows(ids: Tensor, starts: Tensor, count: int, length: int) -> Tensor:
    """[count, length + 1] token ids; each begins with the end-of-text token and then a speech of the play."""
    first = starts[torch.randint(len(starts), (count,))]
    rows = ids[first[:, None] + torch.arange(length)]
    return torch.cat((torch.zeros(count, 1, dtype=rows.dtype), rows), 1)


@torch.no_grad()
def held_out_loss(model: Llama, ids: Tensor) -> float:
    """Mean negative log-likelihood (nats per token) over consecutive windows of the context's length."""
    model.eval()
    length, total, count = model.s.context - 1, 0.0, 0
    for start in range(0, len(ids) - 1, length):
        row = ids[start : start + length]
        row = torch.cat((torch.zeros(1, dtype=row.dtype), row))
        logits = model(row[None, :-1])
        total += F.cross_entropy(logits[0], row[1:], reduction="sum").item()
        count += len(row) - 1
    model.train()
    return total / count


def train(model: Llama, ids: Tensor, starts: Tensor, held_out: Tensor, minutes: float, batch: int, lr: float) -> float:
    """Muon for the matrices, AdamW for the rest; the schedule runs over `minutes`. Returns the best loss."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=lr, weight_decay=0.1),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    begin, step, best = time.monotonic(), 0, math.inf
    best_state = model.state_dict()
    with Progress() as progress:
        bar = progress.add_task("training", total=1.0)  # the schedule's share that is done
        while (done := (time.monotonic() - begin) / (60 * minutes)) < 1:
            rate = lr * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            rows = windows(ids, starts, batch, model.s.context)
            loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % 50 == 0:
                now = held_out_loss(model, held_out)
                progress.console.print(f"step {step}: training loss {loss.item():.3f}, held-out loss {now:.3f}")
                if now < best:
                    best, best_state = now, {n: p.clone() for n, p in model.state_dict().items()}
            progress.update(bar, completed=done)
    if (last := held_out_loss(model, held_out)) < best:
        return last
    model.load_state_dict(best_state)
    return best


def save(model: Llama, tokenizer: Tokenizer, out: Path) -> None:
    s = model.s
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": s.hidden,
        "intermediate_size": s.ffn,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "max_position_embeddings": s.context,
        "rms_norm_eps": s.eps,
        "rope_theta": s.theta,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": s.vocab,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "bos_token": END,
        "eos_token": END,
        "model_max_length": s.context,
        "chat_template": CHAT,
        "clean_up_tokenization_spaces": False,
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("text", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--minutes", type=float, default=45)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()

    torch.manual_seed(a.seed)
    text = a.text.read_text()
    border = text.rindex("\n\n", 0, len(text) * 9 // 10) + 2
    shape = Shape()
    tokenizer = train_tokenizer(text[:border], shape.vocab)
    speeches = [s + "\n\n" for s in text[:border].removesuffix("\n\n").split("\n\n")]
    encoded = [tokenizer.encode(s).ids for s in speeches]
    ids = torch.tensor([i for e in encoded for i in e])
    starts = torch.tensor([0] + [len(e) for e in encoded]).cumsum(0)[:-1]
    starts = starts[starts + shape.context <= len(ids)]
    held_out = torch.tensor(tokenizer.encode(text[border:]).ids)

    model = Llama(shape)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(ids):,} + {len(held_out):,} tokens")
    loss = train(model, ids, starts, held_out, a.minutes, a.batch, a.lr)
    per_byte = loss * len(held_out) / len(text[border:].encode()) / math.log(2)
    print(f"held-out loss {loss:.3f} nats per token, {per_byte:.3f} bits per byte")
    save(model, tokenizer, a.out)
    (a.out / "loss.json").write_text(json.dumps({"nats_per_token": loss, "bits_per_byte": per_byte}) + "\n")


if __name__ == "__main__":
    main()
