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


async def test_recordings():
    records = Records(max_bytes=10)
    records.put("a", b"a")
    recording = records.record("a")
    assert records.recording("a") is recording

    async def read(start: int) -> list[bytes]:
        return [event async for event in recording.follow(start)]

    early = [asyncio.create_task(read(start)) for start in (0, 1, 4)]
    for event in (b"1", b"23", b"4"):
        recording.add(event)
        await asyncio.sleep(0)
    records.put("a", b"b")
    assert records.recording("a") is recording, "stays with its body"
    recording.end()
    assert await asyncio.gather(*early) == [[b"1", b"23", b"4"], [b"23", b"4"], []]
    assert await read(2) == [b"4"]
    records.put("c", b"123456")
    assert records.recording("a") is None and records.get("a") is None, "its events count"
    assert records.get("c") == b"123456"
    records.record("gone").add(b"x" * 20)
    records.put("c", b"1")
    assert records.recording("gone") is None and records.get("c") == b"1", "without a body it is its readers' alone"
