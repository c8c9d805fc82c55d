import json
import math
import platform
import shutil

import numpy as np
import pytest

from tests.api.scripted import BOS, EOS, write_byte_tokenizer
from tests.models.tiny import MODELS
from tests.text.vocabs import keys
from trivet.cli.system import processor
from trivet.weights.formats import Format
from trivet.weights.gguf_writer import GGUFWriter
from trivet.weights.quantize import quantize
from trivet.weights.tensor import TensorInfo

INFO = TensorInfo("token_embd.weight", (20, 64), Format.Q8_0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model folders with a tokenizer, by name."""
    found = {}
    for tiny in MODELS:
        if tiny.name in ("llama", "mixtral"):
            folder = tmp_path_factory.mktemp("inspect") / tiny.name
            config = tiny.write_folder(folder) / "config.json"
            text = config.read_text()
            write_byte_tokenizer(folder, "{{ messages }}")
            config.write_text(text)
            found[tiny.name] = (str(folder), tiny)
    return found


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_numbers_are_the_model_s(trivet, folders, name):
    folder, tiny = folders[name]
    code, out, err = trivet("inspect", folder, "--json", "--tensors", "-c", "1K")
    assert (code, err) == (0, "")
    found, config = json.loads(out), tiny.config
    parameters = sum(tensor.size for tensor in tiny.weights().values())
    assert found["weights"]["parameters"] == parameters
    assert found["weights"]["bytes"] == found["memory"]["weight_bytes"] == 4 * parameters
    assert found["weights"]["formats"]["F32"]["tensors"] == found["weights"]["tensors"] == len(found["tensors"])
    assert sum(math.prod(tensor["shape"]) for tensor in found["tensors"]) == parameters
    assert found["config"]["layers"] == config["num_hidden_layers"]
    assert found["config"].get("experts") == config.get("num_local_experts")
    token = 2 * 4 * config["num_hidden_layers"] * found["config"]["kv_heads"] * found["config"]["head_dim"]
    assert found["memory"]["kv_bytes"] == 1024 * token
    assert found["memory"]["total_bytes"] == 4 * parameters + 1024 * token
    assert found["tokenizer"]["bos"] == {"id": BOS, "text": "<s>"}
    assert {"id": EOS, "text": "</s>"} in found["tokenizer"]["eos"]
    assert found["chat_template"] == "{{ messages }}"
    assert found["problems"] == []


def test_people_see_the_same(trivet, folders):
    folder, tiny = folders["llama"]
    code, out, err = trivet("inspect", folder)
    assert (code, err) == (0, "")
    rows = {line[:18].strip(): line[18:].strip() for line in out.splitlines()}
    assert rows["model"] == folder
    assert rows["architecture"] == "llama"
    assert rows["layers"] == str(tiny.config["num_hidden_layers"])
    assert rows["tied embeddings"] == "no"
    assert rows["text begins with"] == "'<s>' (256)"
    assert "blk.0.attn_q.weight" not in out
    assert "blk.0.attn_q.weight" in trivet("inspect", folder, "--tensors")[1]


@pytest.mark.parametrize(
    ("dtype", "size"), [("auto", 4), ("f32", 4), ("half", 2), ("bfloat16", 2), ("q8_0", 34 / 32), ("half/f32", 3)]
)
def test_the_type_of_the_cache_counts(trivet, folders, dtype, size):
    folder, _ = folders["llama"]
    plain = json.loads(trivet("inspect", folder, "--json")[1])["memory"]["kv_bytes"]
    found = json.loads(trivet("inspect", folder, "--json", "--kv-cache-dtype", dtype)[1])["memory"]["kv_bytes"]
    assert found * 4 == plain * size


def test_a_model_that_cannot_run_is_shown_with_the_reason(trivet, folders, tmp_path):
    folder = shutil.copytree(folders["llama"][0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 99}))
    code, out, err = trivet("inspect", str(folder))
    assert code == 0
    assert "chat template" in out
    assert err.startswith("cannot run here: ")
    assert "99" in err


@pytest.mark.parametrize("wrong", [5, True, [1], ["a"]])
def test_what_should_be_a_text_and_is_none_is_left_out(trivet, tmp_path, wrong):
    found = dict.fromkeys(("general.name", "general.architecture", "tokenizer.ggml.pre"), wrong)
    with GGUFWriter(tmp_path / "m.gguf", keys("llama", tokens=["a", "b", "c"]) | found, []):
        pass
    code, out, err = trivet("inspect", str(tmp_path / "m.gguf"))
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["name", "-"] in rows and ["architecture", "-"] in rows
    assert ["tokenizer", "llama,", "3", "tokens"] in rows
    assert "general.architecture is " in err


def test_weights_that_are_not_finite_are_named(trivet, tmp_path):
    values = np.ones((20, 64), np.float32)
    with GGUFWriter(tmp_path / "m.gguf", {"general.architecture": "llama"}, [INFO]) as writer:
        blocks = quantize(values, Format.Q8_0).reshape(20, 2, 34)
        writer.write(INFO.name, blocks)
    path = str(tmp_path / "m.gguf")
    code, out, _ = trivet("inspect", path, "--check")
    assert code == 0
    assert "all weights are finite" in out
    blocks[3:, 1, :2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    with GGUFWriter(tmp_path / "m.gguf", {"general.architecture": "llama"}, [INFO]) as writer:
        writer.write(INFO.name, blocks)
    code, out, err = trivet("inspect", path, "--check")
    assert code == 1
    assert "not finite: tensor token_embd.weight (Q8_0), block 7: row 3, column 32 is nan\n" in err
    assert "not finite: tensor token_embd.weight: 9 more blocks\n" in err
    code, out, _ = trivet("inspect", path, "--check", "--json")
    assert code == 1
    (bad,) = json.loads(out)["not_finite"]
    assert (bad["tensor"], bad["count"], bad["blocks"][1]) == (
        "token_embd.weight",
        17,
        {"block": 9, "row": 4, "column": 32, "value": "nan"},
    )


def test_system(trivet):
    code, out, _ = trivet("inspect", "--system", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["isa"] in found["available"]
    assert found["usable_cores"] >= 1
    assert found["memory_bytes"] > 2**20
    assert "numpy" in found["packages"]
    assert found["isa"] in trivet("inspect", "--system")[1]


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        (
            "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C\n",
            "Intel(R) Xeon(R) Platinum 8481C",
        ),
        ("model name\t: ARMv8\n", "ARMv8"),
        ("", platform.processor() or platform.machine()),
    ],
)
def test_a_processor_has_numbers(cpuinfo, name, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor(tmp_path / "cpuinfo") == name
