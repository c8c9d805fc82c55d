"""What quantised arithmetic costs: Trivet and llama.cpp against a float run of the same file.

    python -m bench.accuracy [--formats Q4_0,Q8_0,...] [--sequences 16] [--length 256] [--numerics fast]

The built-in model and stories260k are written in each format. The reference is Trivet on the file's weights written
out as F32, with float32 activations and cache. Reported, over all positions of texts: the mean Kullback-Leibler
divergence of the next token's distribution from the reference's (target: at most 1.5 times llama.cpp's), and how far
the perplexity is from the reference's (target: 0.5 %). llama.cpp runs with its default cache, Trivet with its own.

Writes OUTPUT.json and OUTPUT.md.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import models, report
from bench.harness.dequantised import dequantise
from bench.harness.environments import DEFAULT_FOLDER, LLAMA_CPP
from bench.harness.machine import commit
from bench.harness.process import DRIVERS
from trivet import _native
from trivet.engine.config import EngineConfig
from trivet.runtime.loader import load_runtime
from trivet.text.tokenizer import Tokenizer
from trivet.weights.hub import BUILT_IN

SHARED = Path(__file__).parents[2] / "shared"
MODELS = {
    "built-in": (BUILT_IN, SHARED / "data/tinyshakespeare.txt"),
    "stories260k": (SHARED / "models/stories260k/stories260k.gguf", SHARED / "data/tinystories-sample.txt"),
}
FORMATS = "BF16,F16,Q8_0,Q6_K,Q5_K_M,Q5_1,Q5_0,Q4_K_M,Q4_1,Q4_0,IQ4_NL,IQ4_XS,Q3_K_M,Q2_K,TQ2_0,NVFP4"
MOST_DIVERGENCE, MOST_PERPLEXITY = 1.5, 0.005
BLOCK = 16


def trivet_logits(
    path: Path, tokens: np.ndarray, cache_dtype: str, threads: int, numerics: str = "exact"
) -> np.ndarray:
    """tokens: int32 [sequences, length]; returns float32 [sequences, length, vocabulary]."""
    runtime: Any = load_runtime(
        EngineConfig(model=str(path), kv_cache_dtype=cache_dtype, threads=threads, numerics=numerics)
    )
    length = tokens.shape[1]
    blocks = -(-length // BLOCK)
    runtime.allocate_cache(blocks, BLOCK)
    positions = np.arange(length, dtype=np.int32)
    spans = np.array([0, length], np.int32), np.array([length], np.int32)
    table = np.arange(blocks, dtype=np.int32)[None]
    return np.stack([runtime.program.run(row, positions, *spans, table, positions).copy() for row in tokens])


def llamacpp_logits(python: Path, path: Path, tokens: np.ndarray, threads: int) -> np.ndarray | None:
    """None where llama.cpp does not load the file."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "tokens.npy"), Path(folder, "logits.npy")
        np.save(given, tokens)
        command = [python, DRIVERS / "logits_llamacpp.py", path, given, found, str(threads)]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            return None
        logits: np.ndarray = np.load(found)
        return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    result: np.ndarray = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over positions of KL(reference || other), in nats. Both are log-probabilities."""
    return float((np.exp(reference) * (reference - other)).sum(-1).mean())


def perplexity(logprobs: np.ndarray, tokens: np.ndarray) -> float:
    found = np.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None].astype(np.int64), -1)
    return float(np.exp(-found.mean()))


def sequences(model: Path, text: Path, count: int, length: int) -> np.ndarray:
    """From places all over the text, each begun as the model's texts begin; int32 [count, length]."""
    tokenizer = Tokenizer.load(str(model))
    content = text.read_text(encoding="utf-8")
    rows = []
    for start in np.linspace(0, len(content) - 8 * length, count).astype(int):
        line = content.index("\n", start) + 1
        rows.append(tokenizer.encode(content[line : line + 8 * length])[:length])
    return np.array(rows, np.int32)


def compare(args: argparse.Namespace, python: Path) -> Iterator[dict[str, Any]]:
    for name in args.models.split(","):
        original, text = MODELS[name]
        folder = args.models_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        plain = folder / f"{name}-f32.gguf"
        dequantise(Path(original), plain)
        tokens = sequences(plain, text, args.sequences, args.length)
        for mix in args.formats.split(","):
            path = models.quantised(plain, mix, folder)
            exact = folder / "reference.gguf"
            dequantise(path, exact)
            reference = log_softmax(trivet_logits(exact, tokens, "f32", args.threads))
            runs: dict[str, np.ndarray | None] = {
                cache: trivet_logits(path, tokens, cache, args.threads, args.numerics)
                for cache in ("auto", "f16", "f32")
            }
            runs["llama.cpp"] = llamacpp_logits(python, path, tokens, args.threads)
            found = {run: log_softmax(logits) for run, logits in runs.items() if logits is not None}
            yield {
                "model": name,
                "format": mix,
                "perplexity": perplexity(reference, tokens),
                "kl": {run: divergence(reference, logprobs) for run, logprobs in found.items()},
                "perplexities": {run: perplexity(logprobs, tokens) for run, logprobs in found.items()},
            }


def table(results: list[dict[str, Any]]) -> str:
    head = ["model", "format", "perplexity", "Trivet", "llama.cpp", "KL: Trivet", "f16 cache", "f32 cache"]
    rows = []
    for one in results:
        kl, exact = one["kl"], one["perplexity"]
        change = {run: found / exact - 1 for run, found in one["perplexities"].items()}
        theirs = kl.get("llama.cpp")
        bad = (theirs and kl["auto"] > MOST_DIVERGENCE * theirs) or abs(change["auto"]) > MOST_PERPLEXITY
        row = [one["model"], one["format"], f"{exact:.4f}", f"{change['auto']:+.3%}"]
        row += [f"{change['llama.cpp']:+.3%}" if theirs else "–"]
        row += [f"{kl[cache]:.2e}" for cache in ("auto", "f16", "f32")]
        row += [f"{theirs:.2e}" if theirs else "–", report.ratio(kl["auto"], theirs) + (" !" if bad else "")]
        rows.append(row)
    return report.markdown([*head, "llama.cpp", "×"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--numerics", choices=["exact", "fast"], default="exact", help="of Trivet's runs")
    parser.add_argument("--environments", type=Path, default=DEFAULT_FOLDER, help="where peers are installed")
    parser.add_argument("--models-folder", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--output", type=Path, default=Path("bench/results/accuracy"), help="without an ending")
    args = parser.parse_args()
    python = LLAMA_CPP.install(args.environments)
    results = []
    for one in compare(args, python):
        results.append(one)
        print(one["model"], one["format"], {run: f"{value:.3g}" for run, value in one["kl"].items()}, flush=True)
    isa = _native.system_info()["isa"]
    text = (
        f"# Accuracy of quantised arithmetic\n\n{isa}, {args.numerics} numerics, commit {commit()}; "
        f"{args.sequences} texts of {args.length} tokens. Perplexity of the float run, and how far those of Trivet and "
        "llama.cpp are from it; then mean KL divergence from the float run, of Trivet with its own cache type (f16 "
        "for F16 and BF16, else bf16), an f16 and an f32 cache, and of llama.cpp (f16). ×: Trivet's over "
        "llama.cpp's; ! where it is over "
        f"{MOST_DIVERGENCE} or the perplexity is off by more than {MOST_PERPLEXITY:.1%}.\n\n{table(results)}"
    )
    settings = {"sequences": args.sequences, "length": args.length, "numerics": args.numerics}
    report.write(args.output, {"isa": isa, "commit": commit(), "settings": settings, "results": results}, text)


if __name__ == "__main__":
    main()
