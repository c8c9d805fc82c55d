"""Weights on their way to the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.blocks import dequantize
from tests.native.harness import RandomCheckpoint
from trivet.graph.ops import Graph, Op, Weight
from trivet.runtime.cuda import weights as weights_module
from trivet.runtime.cuda.device import HostDevice
from trivet.runtime.cuda.weights import DeviceWeights, Upload
from trivet.runtime.weights import WeightReader
from trivet.weights.formats import Format


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every tensor takes several."""
    monkeypatch.setattr(weights_module, "CHUNK", 1 << 12)


def device_weights(checkpoint: RandomCheckpoint, dtype: torch.dtype = torch.float32) -> DeviceWeights:
    graph = Graph([Op("linear", (0,), (1,), tuple(Weight(n, i.shape) for n, i in checkpoint.tensors.items()))])
    return DeviceWeights(WeightReader(graph, checkpoint), HostDevice(), dtype)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "IQ3_S"])
@pytest.mark.parametrize("shape", [(50, 256), (3, 40, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Whole, and the rows 10 to 30 of every expert."""
    checkpoint = RandomCheckpoint()
    checkpoint.add("w", *shape, format=Format[name])
    checkpoint.add("w.scale", *shape[:-2] or (1,))
    tensor = checkpoint.load("w")
    values = dequantize(tensor.info.format, tensor.data.reshape(*shape[:-1], -1).view(np.uint8)).reshape(shape)
    weights = device_weights(checkpoint, dtype)
    scales = torch.tensor(checkpoint.load("w.scale").data.view(np.float32)).view(-1, *[1] * (len(shape) - 1))
    expected = torch.tensor(values).to(dtype) * scales.to(dtype)
    whole = weights.matrix(Weight("w", shape))
    assert torch.equal(whole.values, expected)
    assert weights.matrix(Weight("w", shape)) is whole
    part = weights.matrix(Weight("w", (*shape[:-2], 20, 256), 10, 30))
    assert torch.equal(part.values, expected[..., 10:30, :])
    assert weights.num_bytes == whole.num_bytes + part.num_bytes


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("shape", [(50, 256), (3, 40, 256)])
def test_float16_where_bfloat16_would_change_it(shape: tuple[int, ...], exact: bool) -> None:
    checkpoint = RandomCheckpoint()
    checkpoint.add("w", *shape, format=Format.F16)
    values = torch.from_numpy(checkpoint.data["w"].view(np.float16).copy()).view(shape)
    if exact:
        values = values.bfloat16().half()
    else:
        values.view(-1)[-1] = 1 + 2**-10
    checkpoint.data["w"] = values.numpy().view(np.uint8)
    weights = device_weights(checkpoint, torch.bfloat16)
    kept = weights.matrix(Weight("w", shape)).values
    assert kept.dtype == (torch.bfloat16 if exact else torch.float16)
    assert torch.equal(kept.float(), values.float())


def test_row_under_row() -> None:
    checkpoint = RandomCheckpoint()
    for name, rows in (("a", 30), ("b", 5), ("c", 64)):
        checkpoint.add(name, rows, 256, format=Format.BF16)
    weights = device_weights(checkpoint)
    parts = [Weight("a", (30, 256)), Weight("b", (3, 256), 1, 4), Weight("c", (64, 256))]
    assert weights.groups(parts) == [tuple(parts)]
    joined = weights.matrix(*parts).values
    assert torch.equal(joined, torch.cat([weights.matrix(part).values for part in parts]))


def test_vectors_are_float32() -> None:
    checkpoint = RandomCheckpoint()
    checkpoint.add("v", 64, format=Format.BF16)
    vector = device_weights(checkpoint, torch.bfloat16).vector(Weight("v", (64,)))
    assert vector.dtype == torch.float32 and torch.equal(vector, vector.bfloat16().float())


@pytest.mark.parametrize("size", [1, 4095, 4096, 10000])
def test_upload(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    upload, target = Upload(HostDevice()), torch.zeros(size, dtype=torch.uint8)
    upload.send(values, target)
    upload.end()
    assert target.numpy().tolist() == values.tolist()
