"""Slots: who has which, what is told of them, and what may be done with them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.fake_llm import FakeLLM
from tests.server.wire import get, post, until
from trivet.engine.messages import Stored
from trivet.errors import RequestError

SLOT = ["id", "n_ctx", "speculative", "is_processing"]
RAN = ["id_task", "n_prompt_tokens", "n_prompt_tokens_processed", "n_prompt_tokens_cache", "params", "next_token"]


class StoringLLM(FakeLLM):
    """Notes what it is to store, and knows one file."""

    def __init__(self, **behaviour):
        super().__init__(**behaviour)
        self.stored = []
        self.engine.store = self.note

    async def note(self, command):
        self.stored.append((command.action, command.tokens, bool(command.cache_salt), command.path.rpartition("/")[2]))
        if command.path.endswith("bad"):
            raise RequestError("the file is damaged", "filename")
        tokens = [1, 2, 3] if command.action == "load" else command.tokens[:16]
        return Stored(command.number, tokens, 99)


@pytest.fixture
def llm():
    return StoringLLM()


@pytest.fixture
def url(serve, llm, tmp_path):
    return serve(llm, num_slots=2, slot_save_path=tmp_path)


def complete(url, prompt="hi", **fields):
    return post(url, "/completion", {"prompt": prompt, "n_predict": 3, **fields}).json()


def test_a_slot_at_rest_and_one_that_ran(url):
    assert get(url, "/slots").json() == [
        {"id": number, "n_ctx": 256, "speculative": False, "is_processing": False} for number in (0, 1)
    ]
    assert complete(url, "x" * 20, id_slot=1)["id_slot"] == 1
    fresh, ran = get(url, "/slots").json()
    assert list(fresh) == SLOT and list(ran) == SLOT + RAN
    assert [ran[name] for name in RAN[1:4]] == [21, 20, 1]
    expected = {"has_next_token": False, "has_new_line": False, "n_remain": 0, "n_decoded": 3}
    assert ran["next_token"] == [expected] and ran["params"]["n_predict"] == 3
    assert "stop" not in ran["params"] and not ran["is_processing"]


def test_texts_are_shown_only_where_wanted(url, monkeypatch):
    complete(url, id_slot=0)
    assert "prompt" not in get(url, "/slots").json()[0]
    monkeypatch.setenv("LLAMA_SERVER_SLOTS_DEBUG", "1")
    shown = get(url, "/slots").json()[0]
    assert (shown["prompt"], shown["generated"], shown["params"]["stop"]) == ("<s>hi", "Lil", [])


def test_without_the_endpoint(serve):
    response = get(serve(FakeLLM(), slots_endpoint=False), "/slots")
    assert response.status_code == 501
    assert "Start it with `--slots`" in response.json()["error"]["message"]


def test_which_slot_a_sequence_gets(url):
    assert complete(url, "abcdef" * 3)["id_slot"] == 0
    assert complete(url, "zzzzzz" * 3)["id_slot"] == 1, "the one never used"
    assert complete(url, "zzzzyy" * 3)["id_slot"] == 1, "the one that begins alike"
    assert complete(url, "------" * 3)["id_slot"] == 0, "the one longest unused"
    assert sorted(one["id_slot"] for one in complete(url, "abc", n_cmpl=2)) == [0, 1]
    assert sorted(one["id_slot"] for one in complete(url, ["a", "b"], id_slot=1)) == [0, 1]


def test_more_sequences_than_slots(serve):
    llm = FakeLLM(delay=0.02)
    url = serve(llm, num_slots=2)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(complete, url, n_predict=20) for _ in range(4)]
        until(lambda: llm.engine.running == 4)
        assert [slot["is_processing"] for slot in get(url, "/slots").json()] == [True, True]
        busy = get(url, "/slots?fail_on_no_slot=1")
        assert (busy.status_code, busy.json()["error"]["message"]) == (503, "no slot available")
        assert all(one.result()["id_slot"] in (-1, 0, 1) for one in running)
    assert get(url, "/slots?fail_on_no_slot=1").status_code == 200


def test_a_client_that_leaves_frees_its_slot(serve):
    llm = FakeLLM(delay=0.05)
    url = serve(llm, num_slots=1)
    with pytest.raises(Exception, match="timed out"):
        post(url, "/completion", {"prompt": "hi"}, timeout=0.2)
    until(lambda: not get(url, "/slots").json()[0]["is_processing"])
    assert llm.engine.cancelled == 1


def act(url, action, number=0, **body):
    return post(url, f"/slots/{number}?action={action}", body)


def test_save_and_restore_and_erase(url, llm):
    tokens = [256, *b"hi", *b"Li"]
    complete(url, id_slot=1)
    saved = act(url, "save", 1, filename="a.bin").json()
    assert saved.pop("timings").keys() == {"save_ms"}
    assert saved == {"id_slot": 1, "filename": "a.bin", "n_saved": 5, "n_written": 99}
    restored = act(url, "restore", 0, filename="a.bin").json()
    assert restored.pop("timings").keys() == {"restore_ms"}
    assert restored == {"id_slot": 0, "filename": "a.bin", "n_restored": 3, "n_read": 99}
    assert act(url, "erase", 0).json() == {"id_slot": 0, "n_erased": 3}
    assert act(url, "erase", 0).json() == {"id_slot": 0, "n_erased": 0}
    assert llm.stored == [
        ("save", tokens, False, "a.bin"),
        ("load", [], False, "a.bin"),
        ("drop", [1, 2, 3], False, ""),
        ("drop", [], False, ""),
    ]


def test_what_is_saved_is_found_under_its_salt(url, llm):
    complete(url, id_slot=0, cache_prompt=False)
    act(url, "save", 0, filename="a")
    assert llm.stored[0][2]


def test_a_busy_slot_is_waited_for(serve, tmp_path):
    llm = StoringLLM(delay=0.05)
    url = serve(llm, num_slots=1, slot_save_path=tmp_path)
    thread = threading.Thread(target=complete, args=(url,), kwargs={"n_predict": 8})
    thread.start()
    until(lambda: llm.engine.running == 1)
    assert act(url, "save", 0, filename="a").json()["n_saved"] == 10
    thread.join()


@pytest.mark.parametrize(
    ("number", "action", "body", "message"),
    [
        ("2", "save", {"filename": "a"}, "Invalid slot ID"),
        ("-1", "save", {"filename": "a"}, "Invalid slot ID"),
        ("x", "erase", {}, "Invalid slot ID"),
        ("9" * 50, "erase", {}, "Invalid slot ID"),
        ("0", "", {"filename": "a"}, "Invalid action"),
        ("0", "burn", {"filename": "a"}, "Invalid action"),
        ("0", "restore", {"filename": "bad"}, "Unable to restore slot, no available space in KV cache or invalid slot"),
        *(
            ("0", action, {"filename": name}, "Invalid filename")
            for action in ("save", "restore")
            for name in (
                "",
                None,
                "..",
                "../a",
                "a/b",
                "/etc/passwd",
                "a\\b",
                ".a",
                "a\0b",
                "a\nb",
                "x" * 300,
                "é" * 200,
            )
        ),
        ("0", "save", {"filename": 5}, "Expected `str | null`"),
    ],
)
def test_refusals(url, llm, number, action, body, message):
    response = act(url, action, number, **body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error") and message in error["message"]
    assert not llm.stored or body["filename"] == "bad"


def test_without_a_folder(serve):
    response = act(serve(FakeLLM()), "erase")
    assert response.status_code == 501
    assert "Start it with `--slot-save-path`" in response.json()["error"]["message"]
