from tests.api.scripted import EOS, write_byte_tokenizer

ANSWERS = ([*b"Hello!", EOS], [*b"Bye.", EOS])


def prompts(client):
    return [bytes(request.prompt).decode() for request in client.requests]


def test_each_line_is_a_message(trivet, script, model):
    client = script(*ANSWERS)
    assert trivet("chat", model, stdin="Hi\n\n  So long \n") == (0, "Hello!\nBye.\n", "")
    assert prompts(client) == [
        "[user]Hi[assistant]",
        "[user]Hi[assistant]Hello![user]So long[assistant]",
    ]


def test_commands(trivet, script, model):
    client = script(*ANSWERS)
    lines = "Hi\n/clear\n/system Be brief.\nHi\n/system\nHi\n/what\n/exit\nnever\n"
    code, out, _ = trivet("chat", model, "--system", "Be nice.", stdin=lines)
    assert code == 0
    assert prompts(client) == [
        "[system]Be nice.[user]Hi[assistant]",
        "[system]Be brief.[user]Hi[assistant]",
        "[user]Hi[assistant]Bye.[user]Hi[assistant]",
    ]
    assert "no command /what" in out


def test_answers_may_be_as_long_as_fits(trivet, script, model):
    client = script(*ANSWERS)
    trivet("chat", model, stdin="Hi\n")
    assert client.requests[0].params.max_tokens == 1000 - len("[user]Hi[assistant]")


def test_what_leaves_no_room_for_an_answer_is_forgotten(trivet, script, model):
    client = script(*ANSWERS, max_model_len=75)
    code, out, err = trivet("chat", model, "--system", "Be nice.", stdin="Hi\nSo long\n")
    assert (code, out) == (0, "Hello!\nBye.\n")
    assert err == "(the oldest 2 messages no longer fit and are forgotten)\n"
    assert prompts(client)[1] == "[system]Be nice.[user]So long[assistant]"


def test_a_message_that_is_too_long_says_so(trivet, script, model):
    script(*ANSWERS, max_model_len=30)
    code, out, err = trivet("chat", model, stdin="x" * 30)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("trivet: error: the prompt has 47 tokens")


def test_a_template_may_be_given(trivet, script, model, tmp_path):
    client = script(*ANSWERS)
    (tmp_path / "t.jinja").write_text("<{{ messages[-1].content }}>")
    trivet("chat", model, "--chat-template", str(tmp_path / "t.jinja"), stdin="Hi\n")
    assert prompts(client) == ["<Hi>"]


def test_a_model_that_cannot_chat_says_so_at_once(trivet, script, tmp_path):
    client = script(*ANSWERS)
    write_byte_tokenizer(tmp_path, "{{ raise_exception('not a chat model') }}")
    code, out, err = trivet("chat", str(tmp_path), stdin="Hi\n")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "not a chat model" in err
    assert not client.requests
