"""A feed-forward network as one operation gives what its three operations give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.native.test_gemm import random_rows, random_weights
from trivet import _native
from trivet.weights.formats import Format

WIDTH = 256


class Network:
    """`fused` and `parts` are the same network, of matrices in a format and biases of some of them."""

    def __init__(
        self, fmt: Format, hidden: int, biased: tuple[bool, bool, bool], threads: int, numerics: str, width: int = WIDTH
    ) -> None:
        self.width = width
        shapes = [(hidden, width), (hidden, width), (width, hidden)]
        weights = [random_weights(fmt, *shape, seed=seed) for seed, shape in enumerate(shapes)]
        biases = [random_rows(1, shape[0])[0] if bias else None for shape, bias in zip(shapes, biased, strict=True)]
        values = [width, hidden, hidden, hidden, width]
        self.fused, self.parts = (
            _native.Program(threads, list(enumerate(values)), "f32", [], numerics) for _ in range(2)
        )
        for program in (self.fused, self.parts):
            program.input(0)
            matrices = [
                (program.add_matrices(fmt.type_id, columns, rows[None]), bias)
                for rows, bias, (_, columns) in zip(weights, biases, shapes, strict=True)
            ]
            if program is self.fused:
                program.feed_forward(0, 4, *matrices, "silu")
            else:
                program.linear(0, [(1, *matrices[0]), (2, *matrices[1])])
                program.act_mul(1, 2, 3, "silu")
                program.linear(3, [(4, *matrices[2])])
            program.output(4)

    def agree(self, rows: int) -> bool:
        x = random_rows(rows, self.width)
        count, none = np.array([0, rows], np.int32), np.zeros(0, np.int32)
        steps = np.arange(rows, dtype=np.int32)
        plan = (steps, steps, count, count[1:], np.zeros((1, 1), np.int32), none, x)
        first, second = (program.run(*plan).copy() for program in (self.fused, self.parts))
        return first.shape == (rows, self.width) and np.array_equal(first, second, equal_nan=True)


FORMATS = [Format.F32, Format.F16, Format.BF16, Format.Q4_0, Format.Q4_K, Format.Q6_K, Format.IQ2_S]
ROWS = [1, 7, 9, 32, 63, 64, 65, 129, 300, 1]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_any_number_of_rows(fmt: Format, numerics: str) -> None:
    for hidden in (256, 1536, 2048):
        network = Network(fmt, hidden, (True, False, True), 2, numerics)
        assert all(network.agree(rows) for rows in ROWS)


@settings(deadline=None, max_examples=30)
@given(
    fmt=st.sampled_from([Format.F32, Format.BF16, Format.Q4_0, Format.Q8_0]),
    blocks=st.integers(1, 40),
    biased=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    threads=st.sampled_from([1, 2, 3, 5, 40]),
    rows=st.lists(st.integers(1, 280), min_size=1, max_size=3),
)
def test_any_width(fmt: Format, blocks: int, biased: tuple[bool, bool, bool], threads: int, rows: list[int]) -> None:
    network = Network(fmt, 32 * blocks, biased, threads, "exact")
    assert all(network.agree(count) for count in rows)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("fmt", [Format.F32, Format.F16, Format.BF16], ids=lambda f: f.name)
def test_columns_that_are_no_whole_panels(fmt: Format, numerics: str) -> None:
    for hidden, width in [(1, WIDTH), (15, WIDTH), (100, WIDTH), (250, 17), (33, 1), (353, 99)]:
        network = Network(fmt, hidden, (True, True, False), 3, numerics, width)
        assert all(network.agree(rows) for rows in (1, 64, 200))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ((9, 1, 2), "feed_forward: there is no matrix 9"),
        ((0, 2, 2), "matrix 2 is 1 of 8 by 16, need 1 of 16 by 8"),
        ((0, 1, 1), "matrix 1 is 1 of 16 by 8, need 1 of 8 by 16"),
    ],
)
def test_what_does_not_fit_is_refused(matrices: tuple[int, int, int], message: str) -> None:
    program = _native.Program(1, [(0, 8), (1, 8)], "f32", [])
    program.input(0)
    for rows, columns in ((16, 8), (16, 8), (8, 16)):
        program.add_matrices(Format.F32.type_id, columns, np.zeros((1, rows, 4 * columns), np.uint8))
    with pytest.raises(ValueError, match=message):
        program.feed_forward(0, 1, *((matrix, None) for matrix in matrices), "silu")
    with pytest.raises(ValueError, match="feed_forward: got 3 biases for 8 columns"):
        program.feed_forward(0, 1, (0, None), (1, None), (2, np.zeros(3, np.float32)), "silu")
