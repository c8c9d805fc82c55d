"""Command lines of the peers, and what becomes of them."""

import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivet import __version__
from trivet.api.args import EngineArgs
from trivet.cli import flag_help, serve
from trivet.cli.commandline import Parser
from trivet.cli.launchers import LAUNCHERS, PEERS
from trivet.cli.settings import (
    DERIVED,
    ENGINE,
    LISTEN,
    SERVER,
    context_length,
    engine_args,
    listen_options,
    server_options,
)
from trivet.errors import TrivetError
from trivet.weights import hub


@pytest.fixture
def outcome(trivet, monkeypatch):
    """Runs a command line, up to where it would serve; returns what is given to engine and server, beside exit code
    and standard error.
    """
    for launcher in LAUNCHERS.values():
        for flag in launcher.flags:
            for name in flag.env.split():
                monkeypatch.delenv(name, raising=False)

    def run(line: str) -> tuple[dict, int, str]:
        seen = {}

        def keep(settings):
            for options in (engine_args(settings), listen_options(settings), server_options(settings)):
                seen.update({name: getattr(options, name) for name in options.__dataclass_fields__})
            seen.update({name: value for name, value in settings.items() if name.startswith("environ.")})

        monkeypatch.setattr(serve, "run_server", keep)
        words = shlex.split(line)
        while "=" in words[0]:
            monkeypatch.setenv(*words.pop(0).split("=", 1))
        code, out, err = trivet(*words)
        assert out == ""
        return seen, code, err

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("serve", {"model": None, "port": 8080, "hosts": ("127.0.0.1",), "seed": None, "dialect": None}),
        ("serve --port 1 m.gguf", {"model": "m.gguf", "port": 1}),
        ("serve m --model other", {"model": "m"}),
        ("serve -m m -p8000", {"model": "m", "port": 8000}),
        ("serve m --max_model_len=4k", {"max_model_len": 4000}),
        ("serve m --max-model-len auto --seed -1", {"max_model_len": None, "seed": -1}),
        ("serve m --served-model-name a b --alias c,d", {"served_model_name": ["a", "b", "c", "d"]}),
        ("serve m --api-key k1 k2 --api-key k3,k4", {"api_keys": ("k1", "k2", "k3", "k4")}),
        ('serve m --allowed-origins \'["http://a", "http://b"]\'', {"allowed_origins": ("http://a", "http://b")}),
        ("serve m --no-enable-prefix-caching", {"enable_prefix_caching": False}),
        ("serve m --dialect TGI", {"dialect": "tgi"}),
        ("serve m --dtype half --kv-cache-dtype bfloat16", {"dtype": "half", "kv_cache_dtype": "bf16"}),
        ("serve m --gpu-memory-utilization 0.85", {"gpu_memory_utilization": 0.85}),
        ("serve m --max-logprobs -1", {"max_logprobs": -1}),
        ("serve m --device cuda --enforce-eager", {"device": "cuda", "enforce_eager": True, "gpu_layers": None}),
        ("serve m -dev none -ngl 20", {"device": "cpu", "gpu_layers": 20}),
        ("serve m --kv-cache-dtype fp8", {"kv_cache_dtype": "fp8"}),
        ("llama-server -m m --device CUDA0 --gpu-layers all", {"device": "cuda", "gpu_layers": None}),
        ("LLAMA_ARG_N_GPU_LAYERS=9 serve m --n-gpu-layers=3", {"gpu_layers": 3}),
        ("LLAMA_ARG_N_GPU_LAYERS=9 serve m", {"gpu_layers": 9}),
        ("tgi --model-id m --cuda-memory-fraction 0.5", {"gpu_memory_utilization": 0.5, "enforce_eager": False}),
        ("tgi --model-id m --cuda-graphs 0", {"enforce_eager": True}),
        ("serve m --cuda-graphs 1,2,4 --numerics fast", {"enforce_eager": False, "numerics": "fast"}),
        ("serve m --chat-template-kwargs '{\"a\": 1}'", {"default_chat_template_kwargs": {"a": 1}}),
        ("serve m --drain-timeout 5 --step-timeout 9", {"shutdown_timeout": 5.0, "step_timeout": 9.0}),
        ("serve m --max-num-queued-tokens 4k --read-timeout 3", {"max_num_queued_tokens": 4000, "read_timeout": 3.0}),
        ("serve m --shutdown-timeout 5 --revision r", {"shutdown_timeout": 5.0, "revision": "r"}),
        ("serve m --override-generation-config.top_k 5", {"override_generation_config": {"top_k": 5}}),
        ("serve m --watermark 0 --hf-overrides {} --enable-chunked-prefill --node-rank 0", {}),
        ("serve m -tp 1 --runner generate --load-format gguf", {}),
        ("serve m --log-level WARN", {"log_level": "WARNING"}),
        ("serve m --log-disable", {"log_level": "CRITICAL"}),
        ("serve m -lv 1 -v", {"log_level": "DEBUG"}),
        ("serve m --offline", {"environ.HF_HUB_OFFLINE": "1"}),
        ("serve m -hft t --download-dir d", {"hf_token": "t", "download_dir": "d"}),
        ("serve -hf org/name:Q4_K_M", {"model": "org/name:Q4_K_M"}),
        ("serve m --host a.sock --host 127.0.0.1", {"hosts": ("a.sock", "127.0.0.1")}),
        ("serve m --max-concurrent-requests 512", {"max_num_seqs": 128, "max_num_queued_reqs": 384}),
        ("serve m --max-concurrent-requests 8", {"max_num_seqs": 8, "max_num_queued_reqs": 0}),
        ("serve m --max-batch-total-tokens 8192 --block-size 32", {"num_gpu_blocks_override": 256}),
        ("serve m --max-batch-total-tokens 8193 --block-size 32", {"num_gpu_blocks_override": 257}),
        ("serve m --max-batch-prefill-tokens 100 --max-input-length 5", {"max_num_batched_tokens": 100}),
        ("serve -t 4 -b 512 -np 4 --mlock", {"threads": 4, "max_num_batched_tokens": 512, "mlock": True}),
        ("serve -t -1 -np -1 -c 0", {"threads": 0, "max_num_seqs": None, "max_model_len": None}),
        ("serve -ctk f16 -ctv f16", {"kv_cache_dtype": "f16"}),
        ("serve -ctk q8_0 -ctv q8_0", {"kv_cache_dtype": "q8_0"}),
        ("serve --kv-cache-dtype q8_0", {"kv_cache_dtype": "q8_0"}),
        ("LLAMA_ARG_CACHE_TYPE_K=q8_0 llama-server", {"kv_cache_dtype": "q8_0/auto"}),
        ("serve -ctk q8_0 -ctv f16", {"kv_cache_dtype": "q8_0/f16"}),
        ("serve --cache-type-k bf16 --cache-type-v f32", {"kv_cache_dtype": "bf16/f32"}),
        ("serve --kv-cache-dtype q8_0 -ctv half", {"kv_cache_dtype": "q8_0/f16"}),
        ("serve --kv-cache-dtype q8_0/bfloat16", {"kv_cache_dtype": "q8_0/bf16"}),
        ("serve -ctv f16", {"kv_cache_dtype": "auto/f16"}),
        ("serve --load-mode mmap+mlock", {"mlock": True}),
        (
            "serve m --metrics --no-slots --props",
            {"metrics_endpoint": True, "slots_endpoint": False, "props_endpoint": True},
        ),
        ("serve m --cors-origins a,b --cors-credentials", {"allowed_origins": ("a", "b"), "allow_credentials": True}),
        (
            "tgi",
            {
                "dialect": "tgi",
                "hosts": ("0.0.0.0",),
                "port": 3000,
                "max_best_of": 2,
                "max_stop_strings": 4,
                "max_num_seqs": 128,
                "max_num_queued_reqs": 0,
                "max_num_batched_tokens": 4096,
                "max_client_batch_size": 4,
                "payload_limit": 2_000_000,
                "shutdown_timeout": 90.0,
                "allowed_origins": ("*",),
            },
        ),
        (
            "tgi --model-id m --max-input-tokens 10 --max-total-tokens 20 --max-batch-total-tokens 40 -p 1 -g 5",
            {"model": "m", "max_input_tokens": 10, "max_model_len": 20, "num_gpu_blocks_override": 3, "port": 1},
        ),
        (
            "tgi --max-batch-size 4 --max-client-batch-size 9",
            {"max_num_seqs": 4, "max_num_queued_reqs": 124, "max_client_batch_size": 9},
        ),
        (
            "tgi --cors-allow-origin http://a --cors-allow-origin http://b",
            {"allowed_origins": ("http://a", "http://b")},
        ),
        ("vllm serve m", {"model": "m", "dialect": "openai", "hosts": ("0.0.0.0",), "port": 8000, "seed": 0}),
        ("vllm serve --model m --uvicorn-log-level trace", {"model": "m", "log_level": "DEBUG"}),
        ("vllm serve m", {"trust_request_chat_template": False}),
        ("vllm serve m --trust-request-chat-template", {"trust_request_chat_template": True}),
        ("serve m --dialect openai", {"trust_request_chat_template": True}),
        ("llama-server -m m", {"model": "m", "dialect": "llamacpp", "port": 8080, "metrics_endpoint": False}),
        (
            "llama-server --temp 0.5 --top-k 10 -l 5+1 -l 6-inf -r A -r B -s 42 -n 100 --dry-sequence-breaker none",
            {
                "sampling_defaults": {
                    "temperature": 0.5,
                    "top_k": 10,
                    "logit_bias": {5: 1.0, 6: -float("inf")},
                    "seed": 42,
                    "stop": ["A", "B"],
                    "dry_sequence_breakers": [],
                }
            },
        ),
        ("llama-server --samplers 'top_k;typ_p'", {"sampling_defaults": {"stages": ("top_k", "typical_p")}}),
        (
            "llama-server --samplers 'top-k;infill;temp'",
            {"sampling_defaults": {"stages": ("top_k", "infill", "temperature")}},
        ),
        ("llama-server --sampler-seq kt", {"sampling_defaults": {"stages": ("top_k", "temperature")}}),
        # Variables
        ("PORT=1 MODEL_ID=x HOSTNAME=h serve", {"port": 8080, "model": None, "hosts": ("127.0.0.1",)}),
        ("PORT=1 MODEL_ID=x HOSTNAME=h MAX_INPUT_LENGTH=9 tgi", {"port": 1, "model": "x", "hosts": ("0.0.0.0",)}),
        ("HOSTNAME=10.0.0.1 LOG_LEVEL=warn,x=debug tgi", {"hosts": ("10.0.0.1",), "log_level": "WARNING"}),
        ("PORT=1 tgi --port 2", {"port": 2}),
        ("PORT= tgi", {"port": 3000}),
        ("VLLM_API_KEY=k VLLM_LOGGING_LEVEL=DEBUG serve m", {"api_keys": ("k",), "log_level": "DEBUG"}),
        ("VLLM_API_KEY=k serve m --api-key j", {"api_keys": ("j",)}),
        ("VLLM_PORT=tcp://10.0.0.1 serve m", {"port": 8080}),
        (
            "LLAMA_ARG_PORT=1 LLAMA_ARG_MLOCK=on LLAMA_API_KEY=a,b serve m",
            {"port": 1, "mlock": True, "api_keys": ("a", "b")},
        ),
        ("LLAMA_ARG_NO_ENDPOINT_SLOTS=1 LLAMA_ARG_MODEL=x llama-server", {"slots_endpoint": False, "model": "x"}),
    ],
)
def test_settings(outcome, line, expected):
    seen, code, err = outcome(line)
    assert (code, err) == (0, "")
    assert {name: seen.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "notes"),
    [
        ("serve m -fa", ["-fa has no effect"]),
        ("serve m -fa on -tb 8 -ub 512", ["-fa has no effect", "-tb has no effect", "-ub has no effect"]),
        ("serve m -ctk q4_0 -ctv f16", ["-ctk q4_0: the KV cache is kept in the model's own type"]),
        ("serve m --kv-cache-dtype fp8_e5m2", ["--kv-cache-dtype fp8_e5m2: the KV cache is kept"]),
        ("serve m -fa AUTO -fit off --log-colors -1", ["-fa has", "-fit has", "--log-colors has"]),
        ("serve m --no-mmap --no-cont-batching -nocb", ["--no-mmap has", "--no-cont-batching has", "-nocb has"]),
        ("serve m --main-gpu 0 --trust-remote-code", ["--main-gpu has no effect", "--trust-remote-code has"]),
        ("serve m --compilation-config.mode 3 --compilation-config.x.y=z", ["--compilation-config has no effect"]),
        ("LLAMA_ARG_NO_MMAP=1 serve m", ["LLAMA_ARG_NO_MMAP has no effect"]),
    ],
)
def test_what_has_no_meaning_is_said(outcome, line, notes):
    _, code, err = outcome(line)
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == len(notes)
    for line, note in zip(lines, notes, strict=True):
        assert line.startswith(f"trivet: {note}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("serve --max-modellen 9", "no such option: --max-modellen, did you mean --max-model-len?"),
        ("serve -nglx 20", "no such option: -nglx, did you mean -ngl?"),
        ("serve --hlep", "no such option: --hlep, did you mean --help?"),
        ("serve --xyzzy", "no such option: --xyzzy (see `trivet serve --help`)"),
        ("tgi --max-model-len 9", "no such option: --max-model-len"),
        ("serve --port", "--port: expected one argument"),
        ("serve --port x", "--port: must be a whole number, got 'x'"),
        ("serve --port 99999", "--port: must be between 0 and 65535, got 99999"),
        ("serve -c many", "-c: it must be a number like"),
        ("serve --log-level loud", "--log-level: must be one of debug, info"),
        ("serve --dialect cobol", "--dialect: must be one of openai"),
        ("serve --gpu-memory-utilization 1.5", "--gpu-memory-utilization: must be between 0 and 1, got 1.5"),
        ("serve --kv-cache-dtype q3", "--kv-cache-dtype: must be one of"),
        ("serve a b", "unexpected argument 'b'"),
        ("tgi m", "unexpected argument 'm'"),
        ("serve --api-key k m", "--api-key takes all values that follow it: put the model first"),
        ("serve --kv-cache-dtype q8_0/q3", "--kv-cache-dtype: must be one of"),
        ("serve -ctk q8_0/f16", "-ctk: must be one of auto"),
        ("serve --tensor-parallel-size 2", "--tensor-parallel-size 2 is not supported: there is one device"),
        ("serve --enable-lora", "--enable-lora is not supported"),
        ("serve --lora x", "--lora x is not supported"),
        ("serve --quantize awq", "--quantize awq is not supported"),
        ("serve --no-enable-chunked-prefill", "--no-enable-chunked-prefill is not supported: prompts are"),
        ("serve --watermark 0.5", "--watermark 0.5 is not supported: there is nothing like it here"),
        ("serve --no-jinja", "--no-jinja is not supported: chat templates are always Jinja"),
        ("serve --context-shift", "--context-shift is not supported"),
        ("serve --hf-overrides.rope x", '--hf-overrides {"rope": "x"} is not supported'),
        ("serve --speculative-config {}x", "--speculative-config {}x is not supported"),
        ("serve --override-generation-config [1]", "--override-generation-config: must be a JSON object"),
        ("serve --hf-overrides.rope", "--hf-overrides.rope: expected a value"),
        ("serve --ssl-keyfile k", "a key without a certificate"),
        ("serve --root-path x", "--root-path: must begin with /, got 'x'"),
        ("serve --api-prefix /x/y/ --api-key-file /none", "cannot read the keys in /none: No such file"),
        ("serve --config /none", "--config /none: No such file"),
        ("serve --chat-template-file /none", "--chat-template-file: /none: No such file"),
        ("serve --tokenizer-config-path /none", "--tokenizer-config-path: /none: No such file"),
        ("serve -l 5", "-l: must be a token id with a bias"),
        ("serve -fa m.gguf", "-fa: must be one of auto, -1, true, 1, on, enabled, yes, false, 0, off"),
        ("serve --log-colors m.gguf", "--log-colors: must be one of auto"),
        ("serve -fit m.gguf", "-fit: must be true or false, got 'm.gguf'"),
        ("LLAMA_ARG_FLASH_ATTN=x serve", "LLAMA_ARG_FLASH_ATTN: must be one of auto"),
        ("llama-server -cl", "-cl is not supported: models are in the cache of the Hugging Face Hub"),
        ("llama-server --samplers nope", "--samplers: must be made of penalties;"),
        ("llama-server --sampler-seq q", "--sampler-seq: must be made of the letters"),
        ("llama-server --temp hot", "--temp: must be a number, got 'hot'"),
        ("tgi --max-input-tokens 9 --max-total-tokens 9", "max_input_tokens must be less than max_total_tokens"),
        (
            "tgi --max-total-tokens 9 --max-batch-total-tokens 5",
            "a KV cache of 5 tokens does not hold one request of 9",
        ),
        ("tgi --max-batch-size 0", "--max-batch-size: must be at least 1, got 0"),
        ("NUM_SHARD=2 tgi", "NUM_SHARD 2 is not supported"),
        ("PORT=x tgi", "PORT: must be a whole number"),
        ("LLAMA_ARG_MLOCK=maybe serve", "LLAMA_ARG_MLOCK: must be true or false, got 'maybe'"),
        ("vllm bench", "of vllm's commands there is only serve, got 'bench'"),
    ],
)
def test_what_is_wrong_is_told(outcome, line, message):
    seen, code, err = outcome(line)
    assert (seen, code) == ({}, 2)
    assert err.startswith(f"trivet: error: {message}") and err.count("\n") == 1


def test_a_context_is_no_longer_than_the_model_s(outcome):
    longest = context_length(EngineArgs())
    assert outcome(f"llama-server -c {longest + 1}")[0]["max_model_len"] == longest
    assert outcome("llama-server -c 20")[0]["max_model_len"] == 20
    assert outcome("serve -c 20 --max-model-len 30")[0]["max_model_len"] == 30


def test_the_model_of_a_context_is_the_one_that_is_served(outcome, monkeypatch):
    seen = []
    monkeypatch.setattr(hub, "resolve", lambda *access: seen.append(access) or hub.BUILT_IN)
    outcome("serve org/name -c 20 --revision r --download-dir d --hf-token t")
    assert seen == [("org/name", "r", "d", "t")]


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        ("port: 9\nserved-model-name: [a, b]\nmax_model_len: 16k", "", {"port": 9, "max_model_len": 16000}),
        ("model: m\nenable-prefix-caching: false", "", {"model": "m", "enable_prefix_caching": False}),
        ("model_tag: m\nport: 9", "--port 1", {"model": "m", "port": 1}),
        ("api-key: x\nseed: null", "--api-key=y", {"api_keys": ("y",), "seed": None}),
        ("no-enable-prefix-caching: true", "", {"enable_prefix_caching": False}),
        ("no_slots: false", "", {"slots_endpoint": True}),
        ("no-enable-prefix-caching: 'off'", "", {"enable_prefix_caching": True}),
        ("logit-bias: [5+1, 6-2]", "", {"sampling_defaults": {"logit_bias": {5: 1.0, 6: -2.0}}}),
        ("reverse-prompt: ['a,b', 7]", "", {"sampling_defaults": {"stop": ["a,b", "7"]}}),
        ("api-key: ['a,b', c]", "", {"api_keys": ("a,b", "c")}),
    ],
)
def test_a_file_says_the_same(outcome, tmp_path, content, line, expected):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    seen, code, err = outcome(f"VLLM_API_KEY=z serve --config {file} {line}")
    assert (code, err) == (0, "")
    assert {name: seen[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 9", "no such option: --prot, did you mean --"),
        ("- a", "expected keys with values"),
        ("a: [", "not YAML"),
        ("no-enable-prefix-caching: x", "--no-enable-prefix-caching: must be true or false, got 'x'"),
        ("logit-bias: [5]", "--logit-bias: must be a token id with a bias"),
    ],
)
def test_a_file_that_is_wrong(outcome, tmp_path, content, message):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    _, code, err = outcome(f"serve --config {file}")
    assert code == 2 and message in err


def test_files_of_keys_and_templates(outcome, tmp_path):
    (tmp_path / "keys").write_text("k1\n\n k2 \n")
    (tmp_path / "t.json").write_text('{"chat_template": "{{ x }}"}')
    (tmp_path / "t.jinja").write_text("{{ y }}")
    (tmp_path / "none").write_text("\n")
    assert outcome(f"serve --api-key k0 --api-key-file {tmp_path}/keys")[0]["api_keys"] == ("k0", "k1", "k2")
    assert outcome(f"tgi --tokenizer-config-path {tmp_path}/t.json")[0]["chat_template"] == "{{ x }}"
    assert outcome(f"serve --chat-template-file {tmp_path}/t.jinja")[0]["chat_template"] == "{{ y }}"
    assert "holds no key" in outcome(f"serve --api-key-file {tmp_path}/none")[2]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_any_words_are_understood_or_refused(name):
    parser = Parser(LAUNCHERS[name].flags)
    spellings = [word for row in LAUNCHERS[name].flags for word in row.spellings]
    values = ["", "0", "1", "-1", "x", "true", "nan", "[", "[1]", "{}", "a,b", "-", "--", "1k", "q8_0", "/none", "é"]
    words = st.sampled_from(spellings) | st.sampled_from(values) | st.text(max_size=4)
    joints = st.sampled_from(["=", ".k", ".k.j="])
    words |= st.tuples(st.sampled_from(spellings), joints, st.sampled_from(values)).map("".join)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.lists(words, max_size=5))
    def check(argv):
        with suppress(TrivetError):
            found = LAUNCHERS[name].defaults | parser.parse(argv).settings
            found.pop("ctx_size", None)
            listen_options(found), server_options(found), engine_args(found)

    check()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_flag_sets_what_there_is(name):
    for row in LAUNCHERS[name].flags:
        kind = row.sets.partition(".")[0]
        assert not row.sets or row.sets in ENGINE | SERVER | LISTEN | DERIVED.keys() or kind in ("sampling", "environ")
        assert row.names or row.env
        assert all(spelling.startswith("-") for spelling in row.spellings)
    assert LAUNCHERS[name].defaults.keys() <= ENGINE | SERVER | LISTEN | DERIVED.keys()


def test_names_of_settings_are_apart():
    """But for one that both engine and server look at."""
    kinds = [ENGINE - {"max_logprobs"}, SERVER, LISTEN, DERIVED.keys()]
    assert sum(map(len, kinds)) == len(set().union(*kinds))


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_s_flag_is_in_its_table_once(peer):
    spellings = [name for row in PEERS[peer][1] for name in row.spellings]
    assert len(spellings) == len(set(spellings))


OURS = ("step_timeout", "mlock", "threads", "prefix_cache_dir", "prefix_cache_size", "gpu_layers", "numerics")


def test_every_engine_argument_is_a_flag():
    """But for those that are ours."""
    flags = {name for row in LAUNCHERS["serve"].flags for name in row.spellings}
    vllm = {name for row in PEERS["vllm"][1] for name in row.spellings}
    for name in EngineArgs.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in (flags if name in OURS else vllm)


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (100, 100), (200, 100)])
@pytest.mark.parametrize("command", ["serve", "tgi", "llama-server", "vllm serve", "vllm"])
def test_help(trivet, monkeypatch, command, columns, widest):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = trivet(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: trivet {command.split()[0]} ")
    assert widest - 10 < max(map(len, out.splitlines())) <= widest


@pytest.mark.parametrize("command", ["serve", "tgi", "llama-server", "vllm serve", "vllm"])
def test_version(trivet, command):
    assert trivet(*command.split(), "--version") == (0, f"trivet {__version__}\n", "")


@pytest.mark.parametrize("peer", PEERS)
def test_help_has_each_flag_of_a_peer(trivet, peer):
    code, out, _ = trivet("serve", f"--help-{peer}")
    assert code == 0
    for row in PEERS[peer][1]:
        for name in row.spellings:
            assert name in out


def test_the_page_of_flags_is_current():
    """After a change: python -m trivet.cli.flag_help > docs/flags.md"""
    page = Path(__file__).parents[2] / "docs" / "flags.md"
    assert page.read_text(encoding="utf-8") == flag_help.page()
