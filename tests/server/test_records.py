from __future__ import annotations

import asyncio

from trivet.server.records import Records


def test_the_least_recently_used_go_first():
    records = Records(max_count=3, max_bytes=10)
    for key in "abc":
        records.put(key, key.encode())
    assert records.get("a") == b"a"
    records.put("d", b"d")
    assert [records.get(key) for key in "abcd"] == [b"a", None, b"c", b"d"]
    records.put("c", b"123456789")
    assert [records.get(key) for key in "acd"] == [None, b"123456789", b"d"]
    records.put("c", b"1")
    records.put("e", b"12345678")
    assert [records.get(key) for key in "cde"] == [b"1", b"d", b"12345678"]
    records.put("f", b"x" * 11)
    assert [records.get(key) for key in "cdef"] == [None] * 4
    records.remove("f")


async def test_jobs():
    records = Records()
    done = []

    async def job(seconds):
        await asyncio.sleep(seconds)
        done.append(seconds)

    records.start("slow", job(60))
    records.start("quick", job(0))
    await records.stop("slow")
    await asyncio.sleep(0.01)
    assert done == [0]
    await records.stop("quick")
    await records.stop("never")
