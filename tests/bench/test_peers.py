"""The side-by-side benchmarks: what they compute, and what becomes of systems that cannot run."""

import itertools
import signal
import subprocess
import sys
from dataclasses import replace
from unittest.mock import ANY, Mock

import numpy as np
import pytest

from bench.accuracy import divergence, log_softmax, perplexity
from bench.harness import mixture, process, report
from bench.harness.dequantised import Dequantised, dequantise
from bench.harness.environments import CannotRun, llama_cpp
from bench.harness.machine import Limits, arithmetic, read_speed
from bench.harness.models import Work, quantised, work
from bench.harness.process import Case, Sample, System
from bench.peers import Comparison, table
from trivet import LLM, SamplingParams, _native
from trivet.weights import open_checkpoint
from trivet.weights.formats import Format
from trivet.weights.gguf import GGUFFile
from trivet.weights.hub import BUILT_IN

CASES = [Case("prefill", 1, 100), Case("decode", 4, 50, 8)]
DRIVER = """
import sys
sys.path.insert(0, {drivers!r})
from protocol import serve

class Fake:
    about = {{"version": "1"}}
    def __init__(self, settings):
        {on_load}
    def run(self, case):
        print("libraries may print")
        {on_run}
        return 0.5

serve(Fake)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a system whose driver does this when it loads, and this for a case."""
    drivers = str(process.DRIVERS)
    monkeypatch.setattr(process, "DRIVERS", tmp_path)
    systems = []

    def make(on_load: str = "pass", on_run: str = "pass") -> System:
        (tmp_path / "fake.py").write_text(DRIVER.format(drivers=drivers, on_load=on_load, on_run=on_run))
        systems.append(System("fake", sys.executable, tmp_path / "model", 1, CASES, tmp_path / "log"))
        return systems[-1]

    yield make
    for system in systems:
        system.close()


def reads(*speeds):
    return Mock(side_effect=itertools.cycle(speeds))


def test_speed_is_tokens_by_the_drivers_own_time(start):
    system = start()
    assert system.about == {"version": "1"}
    assert [system.measure(case, reads(1e9, 3e9)) for case in CASES] == [
        Sample(100 / 0.5, ANY, 2e9),
        Sample(4 * 8 / 0.5, ANY, 2e9),
    ]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (f"import os; os.kill({{}}, {int(signal.SIGILL)})".format("os.getpid()"), "illegal instruction"),
        ("raise SystemExit('no such model')", "no such model"),
        ("raise ValueError('odd')", "ValueError: odd"),
    ],
)
def test_a_driver_that_dies_says_why(start, action, said):
    with pytest.raises(CannotRun, match=said):
        start(on_load=action)
    system = start(on_run=action)
    with pytest.raises(CannotRun, match=said):
        system.measure(CASES[0], reads(1e9))


def test_memory_is_read():
    with read_speed(1) as reads:
        assert all(1e8 < reads() < 1e12 for _ in range(2))


LIMITS = Limits(1e9, int8=1e12, bf16=1e11, fma=5e10, int8_with="VNNI", bf16_with="BF16", fma_with="FMA")


@pytest.mark.parametrize(
    ("case", "arithmetic", "seconds"),
    [
        # 10^6 bytes of weights and 100 tokens of 100 bytes are read in 1.01 ms; products take less.
        (Case("", 1, 100), "int8", 1.01e-3),
        # 4 sequences of 50 tokens, 8 times.
        (Case("", 4, 50, 8), "int8", 8 * 1.02e-3),
        # 1,000 x 10^6 products and one row of the output's 10^5; each token looks at 500 others for 1,000 products.
        (Case("", 1, 1000), "int8", 1.0001e-3 + 5e-3),
        (Case("", 1, 1000), "bf16", 10.001e-3 + 5e-3),
        (Case("", 1, 1000), "fma", 20.002e-3 + 5e-3),
    ],
)
def test_the_least_time(case, arithmetic, seconds):
    found = Work(10**6, 10**5, 10**6, arithmetic, context_products=1000, context_bytes=100).seconds(case, LIMITS)
    assert found == pytest.approx(seconds)


def test_limits_name_what_multiplies():
    assert str(LIMITS).endswith("/s: 1,000 (VNNI), 100 (BF16), 50 (FMA)")
    assert str(replace(LIMITS, bf16_with="FMA", bf16=5e10)).endswith("/s: 1,000 (VNNI), 50 (FMA)")


def test_a_format_is_judged_by_what_multiplies_it():
    formats = (Format.F32, Format.F16, Format.Q4_0, Format.Q8_0, Format.IQ1_S)
    assert [arithmetic(fmt) for fmt in formats] == ["fma", "fma", "int8", "int8", "int8"]
    isa = _native.system_info()["isa"]
    assert arithmetic(Format.BF16) == ("bf16" if isa in ("avx512_bf16", "amx") else "fma")
    assert arithmetic(Format.Q4_0, "fast", 1) == arithmetic(Format.Q4_0, "fast", 512) == "int8"
    assert arithmetic(Format.Q8_0, "fast", 512) == ("bf16" if isa == "amx" else "int8")


@pytest.mark.parametrize(("streams", "needed"), [(1, 0.25), (2, 1 - 0.75**2)])
def test_tokens_need_the_experts_that_they_choose(streams, needed):
    """By chance, of 10^7 bytes."""
    mixture = Work(10**6, 10**5, 10**6, "int8", 0, 0, experts=10**7, expert_bytes=10**7, used=0.25)
    assert mixture.seconds(Case("", streams, 50, 1), LIMITS) == pytest.approx((10**6 + needed * 10**7) / 1e9)


def test_a_mixture_is_written_and_speaks(tmp_path, monkeypatch):
    monkeypatch.setitem(mixture.SHAPES, "small", mixture.Shape(2, 64, 4, 2, 16, experts=8, used=2, ffn=32))
    vocabulary = open_checkpoint(str(BUILT_IN))
    assert isinstance(vocabulary, GGUFFile)
    path = tmp_path / "models/small.gguf"
    mixture.write_mixture("small", vocabulary, path)
    found = work(path)
    assert found.used == 0.25 and found.experts == 2 * 8 * 3 * 64 * 32 and found.expert_bytes == 2 * found.experts
    answer = LLM(str(path)).generate("To be", SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    assert len(answer[0].outputs[0].token_ids) == 5


def test_the_built_in_model_asks_for_its_matrices():
    checkpoint, found = open_checkpoint(str(BUILT_IN)), work(BUILT_IN)
    matrices = [info for info in checkpoint.tensors.values() if len(info.shape) == 2]
    assert found.weight_bytes == sum(info.num_bytes for info in matrices)
    assert found.head == 1024 * 256 and found.layers + found.head == 3_407_872
    assert found.arithmetic == "int8"
    assert found.context_bytes == 2 * 1024


def test_dequantised_is_the_same_model_in_f32(tmp_path):
    dequantise(BUILT_IN, tmp_path / "f32.gguf")
    written, source = open_checkpoint(str(tmp_path / "f32.gguf")), Dequantised(open_checkpoint(str(BUILT_IN)))
    assert {info.format for info in written.tensors.values()} == {Format.F32}
    for name in source.tensors:
        assert (written.load(name).data == source.load(name).data).all()


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit, match="Q9_9 is no format; there are F32, "):
        quantised(BUILT_IN, "Q9_9", tmp_path / "models")
    assert not (tmp_path / "models").exists() and not capsys.readouterr().err


def test_divergence_and_perplexity():
    draw = np.random.default_rng(0)
    uniform, other = log_softmax(np.zeros((2, 3, 8))), log_softmax(draw.standard_normal((2, 3, 8)))
    assert divergence(other, other) == 0
    assert divergence(uniform, other) == pytest.approx(-np.log(8) - other.mean())
    assert perplexity(uniform, np.zeros((2, 3), np.int32)) == pytest.approx(8)


def test_a_table_and_its_numbers():
    row = ["a", "b", report.number(1234.5), report.number(12.34), report.number(None), report.ratio(3.0, 2.0)]
    assert report.markdown(["m", "c", "x", "y", "z", "r"], [row]).splitlines() == [
        "| m | c | x | y | z | r |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| a | b | 1,234 | 12.3 | – | 1.50× |",
    ]
    assert report.percent(report.spread([9.0, 10.0, 12.0])) == "30%"
    assert report.percent(report.spread([9.0])) == "–"


@pytest.mark.parametrize(
    ("speeds", "others", "shown"),
    [
        ([10.0], 0.0, "| 1 | – | 0% |"),
        ([10.0], 0.5, "| 1 | – ! | 50% |"),
        ([10.0, 11.0, 10.0], 0.0, "| 3 | 10% | 0% |"),
        ([10.0, 13.0], 0.0, "| 2 | 26% ! | 0% |"),
    ],
)
def test_a_line_says_how_sure_it_is(speeds, others, shown):
    one = Comparison.__new__(Comparison)
    one.name, one.mix, one.cases, one.work = "m", "Q4_0", CASES[:1], Work(10**6, 10**5, 10**6, "int8", 1000, 100)
    one.results = {"prefill": {"trivet": [Sample(speed, others, 1e9) for speed in speeds]}}
    assert table([one], LIMITS, []).splitlines()[-1].endswith(shown)


@pytest.mark.parametrize(
    ("isa", "variant", "flags"),
    [
        ("amx", "", "NATIVE=ON"),
        ("generic", "generic", "NATIVE=OFF AVX=OFF AVX2=OFF AVX512=OFF AMX_INT8=OFF"),
        ("avx2", "avx2", "NATIVE=OFF AVX=ON AVX2=ON FMA=ON F16C=ON BMI2=ON AVX512=OFF AVX512_VNNI=OFF"),
        ("avx512", "avx512", "NATIVE=OFF AVX2=ON AVX512=ON AVX512_VNNI=ON AVX512_BF16=OFF"),
        ("avx512_bf16", "avx512_bf16", "NATIVE=OFF BMI2=ON AVX512_VNNI=ON AVX512_BF16=ON AMX_TILE=OFF"),
    ],
)
def test_llama_cpp_is_built_for_the_instructions_in_use(isa, variant, flags):
    peer = llama_cpp(isa, "amx")
    arguments = peer.build["CMAKE_ARGS"].split()
    assert peer.variant == variant and {"-DGGML_OPENMP=OFF", "-DLLAVA_BUILD=OFF"} < set(arguments)
    assert {f"-DGGML_{flag}" for flag in flags.split()} < set(arguments) and len(arguments) == (15 if variant else 3)


@pytest.mark.parametrize(("isa", "place"), [("amx", "llamacpp"), ("avx2", "llamacpp-avx2")])
def test_another_build_keeps_apart(isa, place, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run := Mock(return_value=Mock(returncode=0)))
    (tmp_path / place).mkdir()
    assert llama_cpp(isa, "amx").install(tmp_path) == tmp_path / place / "bin/python"
    [_, install] = [call.args[0] for call in run.call_args_list]
    assert ("--no-cache-dir" in install) == (isa != "amx")


def test_a_plot_is_written(tmp_path):
    panels = {"decode 1": {"Q4_0": {"trivet": 2.0, "llamacpp": 1.0}, "BF16": {"trivet": 1.0}}}
    limits = {"decode 1": {"Q4_0": 4.0, "BF16": 2.0}}
    report.bars(tmp_path / "plot.png", "title", panels, {"trivet": "T", "llamacpp": "L"}, "tokens/s", limits)
    assert (tmp_path / "plot.png").stat().st_size > 1000
