"""The block pool: order of reuse, sharing, the prefix index, and its self-check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.engine.blocks import BlockPool, block_key, root_key
from trivet.errors import EngineError


def chain(tokens: list[int], size: int = 16, salt: str = "") -> list[bytes]:
    keys, parent = [], root_key(salt)
    for start in range(0, len(tokens) - size + 1, size):
        parent = block_key(parent, np.array(tokens[start : start + size], np.int32))
        keys.append(parent)
    return keys


def test_keys_name_the_content_and_all_before_it() -> None:
    a = chain([1] * 48)
    assert len(set(a)) == 3
    assert chain([1] * 32 + [2] * 16)[:2] == a[:2]
    assert chain([2] + [1] * 47)[2] != a[2]
    assert not set(chain([1] * 48, salt="other")) & set(a)


def test_partial_blocks_are_reused_first_then_new_ones_then_cached_ones_tail_first() -> None:
    pool = BlockPool(10)
    common, rest = list(range(48)), [7] * 7
    first = [pool.allocate() for _ in range(4)]
    assert first == [0, 1, 2, 3]
    for block, key in zip(first, chain(common + rest), strict=False):
        pool.publish(block, key)
    hits = [pool.find(key) for key in chain(common)]
    assert hits == [0, 1, 2]
    for block in hits:
        pool.share(block)
    second = [*hits, pool.allocate()]
    assert pool.available == 5
    pool.check_integrity([first, second])
    pool.release(first)
    pool.release(second)
    pool.check_integrity([])
    assert pool.available == 10
    assert [pool.allocate() for _ in range(10)] == [4, 3, 5, 6, 7, 8, 9, 2, 1, 0]
    assert all(key not in pool for key in chain(common))


def test_a_cached_block_that_is_shared_again_is_not_handed_out() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.publish(block, b"a")
    pool.release([block])
    assert not pool.is_used(block)
    pool.share(block)
    assert pool.allocate() != block
    assert pool.available == 0


def test_least_recently_used_content_goes_first() -> None:
    pool = BlockPool(2)
    for key in (b"a", b"b"):
        block = pool.allocate()
        pool.publish(block, key)
        pool.release([block]) if key == b"b" else None
    pool.release([0])
    pool.share(1)
    pool.release([1])
    pool.allocate()
    assert b"a" not in pool
    assert b"b" in pool


def test_the_double_of_a_block_stays_private() -> None:
    pool = BlockPool(2)
    a, b = pool.allocate(), pool.allocate()
    pool.publish(a, b"k")
    pool.publish(b, b"k")
    assert pool.find(b"k") == a
    pool.release([b])
    assert pool.find(b"k") == a
    assert pool.allocate() == b


@pytest.mark.parametrize("users", [[], [[0]], [[0], [0]], [[0, 1, 2]]])
def test_integrity_notices_wrong_users(users: list[list[int]]) -> None:
    pool = BlockPool(4)
    held = [pool.allocate(), pool.allocate()]
    pool.check_integrity([held])
    with pytest.raises(EngineError, match="block pool"):
        pool.check_integrity(users)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=120))
def test_any_order_of_operations_keeps_the_pool_whole(operations: list[tuple[int, int]]) -> None:
    pool = BlockPool(8)
    held: list[list[int]] = []
    content: dict[int, bytes] = {}
    for kind, value in operations:
        key = bytes([value])
        found = pool.find(key)
        if found is not None:
            assert content[found] == key
        if kind == 0 and pool.available:
            block = pool.allocate()
            assert all(block not in blocks for blocks in held)
            content.pop(block, None)
            held.append([block])
        elif kind == 1 and held:
            pool.release(held.pop(value % len(held)))
        elif kind == 2 and found is not None:
            pool.share(found)
            held.append([found])
        elif kind == 3 and held:
            block = held[value % len(held)][0]
            if block not in content:
                content[block] = key
                pool.publish(block, key)
                if pool.find(key) != block:
                    del content[block]
        pool.check_integrity(held)
