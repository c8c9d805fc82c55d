"""GGUF files, read and written: agreement with the `gguf` package, splits, and what is refused."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trivet._native import EncodedStrings
from trivet.errors import ModelError
from trivet.weights import open_checkpoint
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.gguf_values import ValueType
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.tensor import TensorInfo

SHARED = Path(__file__).resolve().parents[3] / "shared"
FILES = sorted(SHARED.glob("vocabs/*.gguf")) + sorted(SHARED.glob("models/*/*.gguf"))
LLAMA3 = SHARED / "vocabs/ggml-vocab-llama-bpe.gguf"

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "caf\u00e9 \U0001f600",
    "empty": "",
    "yes": True,
    "number": 7,
    "negative": -7,
    "large": 2**63,
    "half": 0.5,
    "flags": [True, False],
    "numbers": [1, -2, 3],
    "scores": [0.5, -0.25],
    "words": ["a", "", "nul\0nul", "x" * 300, "\u0120"],
    "nothing": [],
    "twin.a": 1,
    "twin.b": 2,
}
INFOS = [
    TensorInfo("token_embd.weight", (3, 64), Format.F32),
    TensorInfo("blk.0.attn_q.weight", (2, 5, 256), Format.Q4_K),
    TensorInfo("blk.0.attn_k.weight", (1, 32), Format.Q8_0),
    TensorInfo("output_norm.weight", (7,), Format.F32),
]


def contents(info: TensorInfo) -> np.ndarray:
    rng = np.random.default_rng(sum(info.name.encode()))
    return rng.integers(0, 256, (*info.shape[:-1], info.format.row_bytes(info.shape[-1])), np.uint8)


def write(path: Path, metadata: dict[str, Any] = METADATA, infos: list[TensorInfo] = INFOS, **options: Any) -> Path:
    with GGUFWriter(path, metadata, infos, **options) as writer:
        for info in infos:
            for row in contents(info):
                writer.write(info.name, row)
    return path


def theirs(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return fields, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.skipif(not FILES, reason="../shared is absent")
@pytest.mark.parametrize(
    "path",
    # The package takes half a minute for the larger ones.
    [pytest.param(path, id=path.stem, marks=[pytest.mark.compare] * (path.stat().st_size > 1e6)) for path in FILES],
)
def test_real_files_read_as_the_gguf_package_reads_them(path: Path) -> None:
    ours = GGUFFile(path)
    fields, tensors = theirs(path)
    assert ours.metadata == fields
    assert list(ours.tensors) == list(tensors)
    for name, data in tensors.items():
        assert np.array_equal(ours.load(name).data.reshape(-1), data.view(np.uint8).reshape(-1))


@pytest.mark.skipif(not LLAMA3.exists(), reason="../shared is absent")
def test_a_new_process_reads_a_vocabulary_of_128k_tokens_in_150_ms() -> None:
    program = f"""if 1:
        import time
        from trivet.weights.gguf import GGUFFile
        start = time.process_time()
        assert len(GGUFFile({str(LLAMA3)!r}).metadata["tokenizer.ggml.tokens"]) == 128256
        print(time.process_time() - start)"""
    runs = [subprocess.run([sys.executable, "-c", program], check=True, capture_output=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.150


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path / "model.gguf"))
    assert file.metadata == METADATA
    assert list(file.tensors.values()) == INFOS
    for info in INFOS:
        assert np.array_equal(file.load(info.name).data, contents(info))
    fields, tensors = theirs(tmp_path / "model.gguf")
    assert fields == METADATA
    for info in INFOS:
        assert np.array_equal(tensors[info.name].view(np.uint8).reshape(contents(info).shape), contents(info))


def test_version_2_is_read_like_3(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf")
    path.write_bytes(replace(b"GGUF" + u32(3), b"GGUF" + u32(2))(path.read_bytes()))
    assert GGUFFile(path).metadata == METADATA


@pytest.mark.parametrize("fmt", Format, ids=lambda fmt: fmt.name)
def test_every_format_has_the_size_the_gguf_package_gives_it(fmt: Format, tmp_path: Path) -> None:
    info = TensorInfo("x", (3, 2 * fmt.block_size), fmt)
    assert np.array_equal(GGUFFile(write(tmp_path / "x.gguf", {}, [info])).load("x").data, contents(info))
    if fmt.name in gguf.GGMLQuantizationType.__members__ and fmt is not Format.Q8_1:  # Its size there is an old one.
        kind = gguf.GGMLQuantizationType[fmt.name]
        assert kind == fmt.type_id
        assert gguf.GGML_QUANT_SIZES[kind] == (fmt.block_size, fmt.block_bytes)


@pytest.mark.parametrize("kind", [t for t in ValueType if t not in (ValueType.ARRAY, ValueType.STRING, ValueType.BOOL)])
def test_every_type_of_number_round_trips(kind: ValueType, tmp_path: Path) -> None:
    is_float = kind in (ValueType.FLOAT32, ValueType.FLOAT64)
    values: list[Any] = [0.0, -1.5] if is_float else [0, 127] if kind.name.startswith("U") else [-128, 127]
    metadata = {"one": values[1], "many": values}
    write(tmp_path / "x.gguf", metadata, [], types=dict.fromkeys(metadata, kind))
    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata == metadata == theirs(tmp_path / "x.gguf")[0]
    assert file.types == dict.fromkeys(metadata, kind)


@given(st.lists(st.one_of(st.text(max_size=12), st.just("y" * 300)), max_size=40))
def test_strings_are_read_whatever_they_hold(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "words.gguf"
    write(path, {"words": words, "after": 1}, [])
    assert GGUFFile(path).metadata == {"words": words, "after": 1}


@given(st.binary(max_size=40), st.integers(0, 2**63), st.integers(0, 2**63))
def test_strings_stay_inside_any_bytes(data: bytes, position: int, count: int) -> None:
    lengths = struct.pack("<QQ", 3, len(data)) + b"abc" + data
    for given_bytes, start in ((data, position), (lengths, 0), (lengths, 8), (lengths[8:], 0)):
        strings = EncodedStrings(memoryview(given_bytes), start, count)
        assert list(strings) == strings.decode()
        assert len(strings) <= count
        assert strings.end == start + sum(8 + len(text.encode()) for text in strings)


@given(st.one_of(st.binary(max_size=8), st.text(max_size=6).map(str.encode)), st.binary(max_size=2))
@example(b"\xed\xa0\x80", b"")
@example(b"\xf4\x90\x80\x80", b"")
@example(b"\xe0\x9f\xbf", b"")
@example(b"\xf0\x8f\xbf\xbf", b"")
@example("\ud7ff\ue000\U0010ffff\x7f\x80\u07ff\u0800\U00010000".encode(), b"\xc3")
def test_strings_are_whole_where_python_decodes_them(text: bytes, more: bytes) -> None:
    for data in (text, text + more, text[:-1]):
        try:
            data.decode()
            valid = 1
        except UnicodeDecodeError:
            valid = 0
        assert len(EncodedStrings(memoryview(struct.pack("<Q", len(data)) + data), 0, 1)) == valid


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_alignment(alignment: int, tmp_path: Path) -> None:
    write(tmp_path / "x.gguf", {"general.alignment": alignment})
    for info in INFOS:
        data = GGUFFile(tmp_path / "x.gguf").load(info.name).data
        assert data.ctypes.data % alignment == 0
        assert np.array_equal(data, contents(info))


def test_writing_says_what_is_wrong(tmp_path: Path) -> None:
    row = np.zeros(256, np.uint8)
    for metadata, infos, data, reason in [
        ({}, INFOS, [], "token_embd.weight' is not complete"),
        ({}, INFOS, [("output_norm.weight", row)], "'token_embd.weight' is"),
        ({}, INFOS[:1], [("token_embd.weight", np.zeros(769, np.uint8))], "takes 768 bytes, 769 are given"),
        ({}, INFOS[:1], [("token_embd.weight", row)] * 4, "'token_embd.weight' is not the next, 'the end' is"),
        ({}, INFOS * 2, [], "used twice"),
        ({}, [TensorInfo("x" * 64, (1,), Format.F32)], [], "longer than 63"),
        ({}, [TensorInfo("x", (1, 1, 1, 1, 1), Format.F32)], [], "shape"),
        ({"key": None}, [], [], "None"),
        ({"key": [1, "a"]}, [], [], "lists of one"),
        ({"key": 2**64}, [], [], "'key'.*does not fit"),
    ]:
        with (
            pytest.raises(ValueError, match=reason),
            GGUFWriter(tmp_path / "x", metadata, infos) as writer,
        ):
            for name, array in data:
                writer.write(name, array)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelError, match="cannot be written: No such file"), GGUFWriter(tmp_path / "a/b", {}, []):
        pass


@pytest.fixture
def splits(tmp_path: Path) -> list[Path]:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    writer.add_uint32("answer", 42)
    for i in range(3):
        writer.add_tensor(f"t{i}", np.full((2, 4), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("*.gguf"))


def test_splits_are_one_model(splits: list[Path]) -> None:
    assert [path.name for path in splits] == [f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    (splits[0].parent / "config.json").write_text("{}")
    for path in (splits[0], splits[0].parent):
        model = open_checkpoint(path)
        assert model.metadata == {"general.architecture": "llama", "answer": 42}
        assert [model.load(f"t{i}").data.view(np.float32)[1, 3] for i in range(3)] == [0, 1, 2]


def test_incomplete_splits_are_refused(splits: list[Path]) -> None:
    with pytest.raises(ModelError, match=r"split 2 of 3; name the first, .*m-00001-of-00003.gguf"):
        GGUFFile(splits[1])
    third = splits[2].read_bytes()
    splits[2].write_bytes(splits[1].read_bytes())
    with pytest.raises(ModelError, match=r"m-00003-of-00003.gguf: .*\(1, 3\).*must be \(2, 3\)"):
        GGUFFile(splits[0])
    splits[2].write_bytes(third.replace(b"t2", b"t1"))
    with pytest.raises(ModelError, match="tensor 't1' is in the model twice"):
        GGUFFile(splits[0])
    splits[2].unlink()
    with pytest.raises(ModelError, match=r"1 of 3 splits are missing, first .*m-00003"):
        GGUFFile(splits[0])
    splits[0].rename(splits[0].with_name("first.gguf"))
    with pytest.raises(ModelError, match=r"name must end in -00001-of-00003.gguf"):
        GGUFFile(splits[0].with_name("first.gguf"))


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return change


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


Q4_INFO = b"blk.0.attn_q.weight" + u32(3)
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "cannot be mapped"),
    "magic": (replace(b"GGUF", b"GGML"), "not a GGUF file: it starts with b'GGML'"),
    "version 1": (replace(b"GGUF" + u32(3), b"GGUF" + u32(1)), "version 1 is not supported; versions 2 and 3 are"),
    "version 4": (replace(b"GGUF" + u32(3), b"GGUF" + u32(4)), "version 4 is not supported"),
    "big-endian": (replace(b"GGUF" + u32(3), b"GGUF" + bytes([0, 0, 0, 3])), "big-endian"),
    "tensor count": (replace(u64(4, 15), u64(2**63, 15)), "claims 9223372036854775808 tensors"),
    "key count": (replace(u64(4, 15), u64(4, 2**40)), "1099511627776 metadata keys"),
    "one key more": (replace(u64(4, 15), u64(4, 16)), ""),
    "key twice": (replace(b"twin.b", b"twin.a"), "metadata key 'twin.a' is there twice"),
    "no key": (replace(u64(5) + b"empty", u64(0)), "metadata key 2 has no name"),
    "long key": (replace(u64(5) + b"empty", u64(65536) + b"empty"), "metadata key 2 of 15 has 65536 bytes; at most"),
    "long name": (replace(u64(19) + Q4_INFO, u64(65536) + Q4_INFO), "tensor 1 of 4 has 65536 bytes; at most 65535"),
    "key not UTF-8": (replace(b"negative", b"negativ\xff"), "name of metadata key 5 .*not UTF-8"),
    "value not UTF-8": (replace(b"caf\xc3\xa9", b"caf\xc3\xc3"), "'general.name' is not UTF-8"),
    "value type": (replace(b"half" + u32(6), b"half" + u32(13)), "'half' has the unknown value type 13"),
    "nested array": (replace(b"flags" + u32(9) + u32(7), b"flags" + u32(9) + u32(9)), "'flags' is an array of arrays"),
    "bool": (replace(b"yes" + u32(7) + b"\x01", b"yes" + u32(7) + b"\x02"), "'yes' holds a bool of 2"),
    "string length": (replace(u64(5) + b"llama", u64(2**62) + b"llama"), "'general.architecture' needs"),
    "string count": (replace(u64(5, 1) + b"a", u64(2**61, 1) + b"a"), "'words' claims 2305843009213693952 strings"),
    "array length": (replace(u32(5) + u64(3), u32(5) + u64(2**22)), "'numbers' needs"),
    "numbers": (replace(u32(5) + u64(3), u32(5) + u64(2**22 + 1)), "'numbers' claims 4194305 numbers; at most 4194304"),
    "dimensions": (replace(Q4_INFO, Q4_INFO[:-4] + u32(5)), "'blk.0.attn_q.weight' has 5 dimensions; at most 4"),
    "negative shape": (replace(u64(256, 5, 2), u64(256, 2**64 - 5, 2)), r"shape \[2, -5, 256\]"),
    "zero shape": (replace(u64(256, 5, 2), u64(256, 0, 2)), "at least 1"),
    "shape overflow": (replace(u64(256, 5, 2), u64(256, 2**62, 2**62)), "ends at byte"),
    "blocks": (replace(u64(256, 5, 2), u64(255, 5, 2)), "rows of 255 values, not a multiple of Q4_K's block of 256"),
    "format": (replace(u64(256, 5, 2) + u32(12), u64(256, 5, 2) + u32(31)), "unknown format 31"),
    "offset": (replace(u64(256, 5, 2) + u32(12) + u64(768), u64(256, 5, 2) + u32(12) + u64(2**63)), "must be at 768"),
    "overlap": (replace(u64(256, 5, 2) + u32(12) + u64(768), u64(256, 5, 2) + u32(12) + u64(736)), "must be at 768"),
    "tensor twice": (replace(b"attn_k", b"attn_q"), "'blk.0.attn_q.weight' is in the model twice"),
    "truncated data": (lambda data: data[:-20], "'output_norm.weight' ends at byte .* truncated"),
    "truncated infos": (lambda data: data[: data.index(b"output_norm")], "truncated"),
    "truncated keys": (lambda data: data[:500], "truncated"),
    "truncated header": (lambda data: data[:15], "the number of tensors needs 8 bytes at offset 8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    change, reason = DAMAGES[damage]
    path = write(tmp_path / "model.gguf")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=f"model.gguf: .*{reason}"):
        GGUFFile(path)


def test_an_open_file_is_shared_until_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    first = open_checkpoint(path)
    assert open_checkpoint(path) is first
    assert open_checkpoint(write(path, METADATA | {"general.name": "another"})) is not first
