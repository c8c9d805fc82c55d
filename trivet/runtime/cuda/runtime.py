"""The GPU runtime: a graph's kernels, weights and a paged cache on one CUDA device."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain

import numpy as np
import torch
import triton

from trivet import __version__
from trivet.engine.config import EngineConfig, join_cache_dtype, split_cache_dtype
from trivet.engine.plan import StepOutput, StepPlan
from trivet.errors import EngineError
from trivet.graph.ops import Graph
from trivet.models.config import ModelConfig
from trivet.runtime.cuda.cache import PagedCache, block_bytes, cache_dtype
from trivet.runtime.cuda.device import CudaDevice, Device, or_device_lost
from trivet.runtime.cuda.graphs import DecodeGraphs, batch_buckets, graph_bytes
from trivet.runtime.cuda.kernels.attention_tiles import MOST_COLUMNS
from trivet.runtime.cuda.kernels.linear import kernel_rows
from trivet.runtime.cuda.memory import (
    MOST_SEQUENCES,
    history_bytes,
    largest_samples,
    largest_steps,
    or_engine_error,
    or_kernel_error,
)
from trivet.runtime.cuda.program import Program
from trivet.runtime.cuda.sampler import DeviceSampler, DeviceSamples
from trivet.runtime.cuda.step import HostStep, Staging, StepBuffer, StepInputs, resolved
from trivet.runtime.cuda.weights import DeviceWeights
from trivet.runtime.model import describe, graph_digest, main_format, sampled_digest
from trivet.runtime.weights import Progress, WeightReader
from trivet.units import amount
from trivet.weights.formats import Format
from trivet.weights.tensor import Checkpoint

logger = logging.getLogger(__name__)


class CudaPending:
    """A step that has been started."""

    def __init__(self, samples: DeviceSamples | NoSamples, device: Device) -> None:
        self._samples, self._device = samples, device
        self._output: StepOutput | None = None

    def result(self) -> StepOutput:
        """Waits for its end."""
        if self._output is None:
            with or_device_lost(self._device):
                self._output = self._samples.collect()
        return self._output


class NoSamples:
    """Of a step that draws nothing."""

    def __init__(self, device: Device) -> None:
        self._ended = device.event()
        self._ended.record()

    def collect(self) -> StepOutput:
        """Wait for its end."""
        self._ended.synchronize()
        return StepOutput(np.empty(0, np.int32), [], [])


class CudaRuntime:
    """A Runtime that can start a step before the one before it has ended.

    Activations are float32 for a float32 model, else bfloat16; so is the cache, where its type is "auto".

    Raises ModelError when graph and checkpoint do not fit together, EngineError for a wrong setting or where memory
    is short.
    """

    def __init__(
        self,
        graph: Graph,
        checkpoint: Checkpoint,
        model: ModelConfig,
        config: EngineConfig,
        progress: Progress | None = None,
        device: Device | None = None,
    ) -> None:
        """`device` is a stand-in for the CUDA device, in tests."""
        found = device or CudaDevice()
        exact = main_format(checkpoint) is Format.F32
        self._device = found
        self._dtype = torch.float32 if exact else torch.bfloat16
        own = "f32" if exact else "bf16"
        types = (own if name == "auto" else name for name in split_cache_dtype(config.kv_cache_dtype))
        self._cache_type = join_cache_dtype(*types)
        self._cache_dtype = cache_dtype(self._cache_type, found)
        if not 0 < config.gpu_memory_utilization <= 1:
            raise EngineError(
                f"gpu_memory_utilization must be more than 0 and at most 1, got {config.gpu_memory_utilization:g}"
            )
        if config.numerics not in ("exact", "fast"):
            raise EngineError(f"numerics must be exact or fast, got {config.numerics}")
        widest = max((layer.head_dim for layer in graph.cache), default=0)
        if widest > MOST_COLUMNS:
            raise EngineError(
                f"a GPU's attention has heads of up to {MOST_COLUMNS} columns, got {widest}: use device cpu"
            )
        self._config = config
        self._max_batch = min(config.max_num_seqs, config.max_num_batched_tokens)  # as the scheduler runs at most
        if self._max_batch > MOST_SEQUENCES:
            raise EngineError(
                f"a GPU's steps have up to {MOST_SEQUENCES} sequences: max_num_seqs {config.max_num_seqs} or "
                f"max_num_batched_tokens {config.max_num_batched_tokens} must be lower"
            )
        self._checkpoint = checkpoint
        self._graph_digest = graph_digest(graph)
        self._layers = graph.cache
        self._head_dim = widest
        self._hidden_size = graph.widths[graph.ops[0].outputs[0]] if graph.ops[0].kind == "input" else 0
        self._vocab_size = model.vocab_size
        self._max_context = min(config.max_model_len or model.context_length, model.context_length)
        with self._or_step_error():
            self._drawn = torch.zeros(config.max_num_batched_tokens, dtype=torch.int32, device=found.place)
            self._buffer, self._staging = StepBuffer(found), Staging(found)
            self._sampler = DeviceSampler(model.vocab_size, found.place)
        self._graphs: DecodeGraphs | None = None
        began = time.perf_counter()
        reader = WeightReader(graph, checkpoint, progress)
        with (
            or_engine_error(
                found,
                f"the weights, {amount(reader.total)} in their files",
                "use a smaller model or one with quantised weights, or keep layers on the CPU with gpu_layers",
            ),
            DeviceWeights(reader, found, self._dtype) as weights,
        ):
            self._program = Program(graph, weights, self._dtype, config.numerics)
            self._kernel_rows = kernel_rows(weights.products, self._dtype, config.max_num_batched_tokens)
        seconds = time.perf_counter() - began
        logger.info("loaded %s in %.1f s, %.2f GB/s", amount(reader.total), seconds, reader.total / seconds / 1e9)
        self.info = describe(checkpoint, model, f"cuda ({found.name})", weights.num_bytes, dedicated_memory=True)

    def block_bytes(self, block_size: int) -> int:
        return block_bytes(self._layers, self._cache_dtype, block_size)

    def available_bytes(self) -> int:
        """Of the memory that may be in use, what is neither in use by anyone nor needed for steps and graphs.

        Raises EngineError when nothing is left.
        """
        return self._available

    @cached_property
    def _available(self) -> int:
        config = self._config
        with self._or_step_error(), or_kernel_error(self._device, self._head_dim, self._cache_type):
            steps, graphs = self._profile()
        free, total = self._device.memory()
        budget = int(total * config.gpu_memory_utilization)
        available = budget - (total - free) - steps - graphs
        blocks = max(available, 0) // self.block_bytes(config.block_size)
        histories = history_bytes(self._max_batch, min(self._max_context, blocks * config.block_size))
        steps, available = steps + histories, available - histories
        if available <= 0:
            raise EngineError(
                f"gpu_memory_utilization {config.gpu_memory_utilization:g} lets {amount(budget)} of {amount(total)} "
                f"be in use: {amount(total - free)} are already, {amount(self.info.weight_bytes)} by the weights, the "
                f"largest step takes {amount(steps)} and CUDA graphs take {amount(graphs)}, which leaves no room for "
                f"the KV cache; raise it, or lower max_num_batched_tokens ({config.max_num_batched_tokens}) or "
                f"max_num_seqs ({config.max_num_seqs})"
            )
        return available

    def allocate_cache(self, num_blocks: int, block_size: int) -> None:
        config = self._config
        size = num_blocks * self.block_bytes(block_size)
        with (
            or_engine_error(
                self._device,
                f"a KV cache of {num_blocks} blocks, {amount(size)}",
                f"lower gpu_memory_utilization ({config.gpu_memory_utilization:g}) or num_blocks",
            ),
            torch.inference_mode(),
        ):
            self._program.cache = PagedCache(self._layers, self._cache_dtype, num_blocks, block_size, self._device)
            if not config.enforce_eager:
                self._graphs = DecodeGraphs(
                    self._device,
                    self._logits,
                    self._buffer,
                    self._vocab_size,
                    block_size,
                    self._max_batch,
                    self._max_context,
                    self._hidden(1),
                )
                self._graphs.prepare()

    def run(self, plan: StepPlan, hidden: np.ndarray | None = None) -> StepOutput:
        """`hidden` [tokens, width] float32 is what a graph that was cut begins with."""
        return self.start(plan, hidden).result()

    @torch.inference_mode()
    def start(self, plan: StepPlan, hidden: np.ndarray | None = None) -> CudaPending:
        """Begin a step. The host waits for nothing."""
        with or_device_lost(self._device):
            logits = self.logits(plan, hidden)
            if logits is None:
                return CudaPending(NoSamples(self._device), self._device)
            samples = self._sampler.sample(logits, self._sampler.prepare(plan.samples))
            self._drawn[: len(samples.tokens)].copy_(samples.tokens)
        return CudaPending(samples, self._device)

    @torch.inference_mode()
    def logits(self, plan: StepPlan, hidden: np.ndarray | None = None) -> torch.Tensor | None:
        """A step but for the choice of tokens: logits [R, V] float32 on the device, good until the next step."""
        step = HostStep.of(plan, self._program.cache.block_size)
        begin = None if hidden is None else self._sent(hidden)
        logits = self._graphs.run(step, begin) if self._graphs is not None else None
        return self._logits(self._buffer.send(step), begin) if logits is None else logits

    def identity(self) -> Mapping[str, str]:
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, str]:
        return {
            "weights": sampled_digest(self._checkpoint),
            "graph": self._graph_digest,
            "cache type": self._cache_type,
            "instruction set": f"{self._device.capability}, {self._config.numerics}",
            "compilers": f"torch {torch.__version__}, triton {triton.__version__}",
            "program version": __version__,
        }

    @torch.inference_mode()
    def read_block(self, block: int) -> np.ndarray:
        return self._program.cache.read(block)

    @torch.inference_mode()
    def write_block(self, block: int, data: np.ndarray) -> None:
        self._program.cache.write(block, data)

    def close(self) -> None:
        self._device.synchronize()
        self._program.close()
        del self._program, self._graphs, self._buffer, self._staging, self._sampler, self._drawn
        self._device.release()

    def _logits(self, step: StepInputs, hidden: torch.Tensor | None = None) -> torch.Tensor | None:
        step = resolved(step, self._drawn)
        return self._program.run(step if hidden is None else replace(step, hidden=hidden))

    def _or_step_error(self) -> AbstractContextManager[None]:
        config = self._config
        return or_engine_error(
            self._device,
            f"a step of max_num_batched_tokens {config.max_num_batched_tokens} and max_num_seqs {config.max_num_seqs}",
            "lower one of these",
        )

    def _sent(self, hidden: np.ndarray) -> torch.Tensor:
        sent = torch.empty(hidden.shape, dtype=self._dtype, device=self._device.place)
        self._staging.send(sent, lambda host: host.copy_(torch.from_numpy(hidden)))
        return sent

    def _hidden(self, rows: int) -> torch.Tensor | None:
        """Zeros for what a graph that was cut begins with."""
        if not self._hidden_size:
            return None
        return torch.zeros(rows, self._hidden_size, dtype=self._dtype, device=self._device.place)

    @torch.inference_mode()
    def _profile(self) -> tuple[int, int]:
        """Run the largest steps, and smaller ones, so that all kernels are compiled. Returns the bytes of steps and of
        graphs."""
        config = self._config
        self._sampler.warm_up()
        self._program.cache = PagedCache(self._layers, self._cache_dtype, 1, config.block_size, self._device)
        rows = dict.fromkeys([*self._kernel_rows, config.max_num_batched_tokens])
        *smaller, (prompt, decode) = (
            largest_steps(n, config.max_num_seqs, self._max_context, config.block_size) for n in rows
        )

        def start(step: HostStep) -> DeviceSamples:
            logits = self._logits(self._buffer.send(step), self._hidden(len(step.token_ids)))
            assert logits is not None
            samples = largest_samples(len(logits), config.max_num_seqs)
            return self._sampler.sample(logits, self._sampler.prepare(samples))

        def run(step: HostStep) -> None:
            for samples in [start(step), start(step)]:  # as two may be in flight
                samples.collect()

        for step in chain.from_iterable(smaller):
            start(step).collect()
        steps = max(self._device.peak_bytes(partial(run, step)) for step in (prompt, decode))
        if config.enforce_eager:
            return steps, 0
        batch = decode.padded(batch_buckets(self._max_batch)[-1])
        hidden = self._hidden(len(batch.token_ids))
        largest = self._device.peak_bytes(lambda: self._logits(self._buffer.send(batch), hidden))
        sizes = self._max_batch, self._max_context, config.block_size, self._vocab_size
        return steps, graph_bytes(largest, *sizes, self._hidden_size * self._dtype.itemsize)
