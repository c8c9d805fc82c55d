"""Chat templates: what they may use, what they get, and what they cannot do to a server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.text.vocabs import SHARED
from trivet.errors import ModelError, RequestError
from trivet.text import template_sandbox
from trivet.text.chat_template import CHATML, ChatTemplate

USER = {"role": "user", "content": 'Hi "there" <b>\n'}
TALK = [USER, {"role": "assistant", "content": "Hello é"}, {"role": "user", "content": " How are you? "}]
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
CALLS = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"degrees": 20}', "tool_call_id": "abcdefghi", "name": "get_weather"},
]
FILES = sorted((SHARED / "templates").glob("*.jinja"))
ECHO = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"

shared = pytest.mark.skipif(not FILES, reason="../shared is not there")
every_template = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@dataclass
class Names:
    """What a template wants of a tokenizer."""

    names: dict[str, str] = field(default_factory=lambda: {"bos_token": "<BOS>", "eos_token": "<EOS>"})
    chat_templates: dict[str, str] = field(default_factory=dict)


def template(source: str | None, **own: str) -> ChatTemplate:
    return ChatTemplate(source, Names(chat_templates=own))  # type: ignore[arg-type]


def render(source: str, messages: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
    return template(source).render(messages or [USER], **kwargs)


@shared
@every_template
def test_real_templates_render(path: Any) -> None:
    ours = template(path.read_text())
    for messages in (TALK, [SYSTEM, *TALK]):
        text = ours.render(messages)
        for message in messages:
            assert message["content"].strip() in text
        assert text.startswith(ours.render(messages, add_generation_prompt=False).rstrip()[:40])
    if "tool" in path.read_text():
        assert ours.render(CALLS, TOOLS)


@shared
@every_template
@pytest.mark.parametrize(
    "absent", [{"tool_calls": None}, {"tool_calls": []}, {"thinking": None, "name": None}], ids=str
)
def test_what_is_null_is_not_there(path: Any, absent: dict[str, Any]) -> None:
    ours = template(path.read_text())
    assert ours.render([message | absent for message in TALK], TOOLS) == ours.render(TALK, TOOLS)


@shared
@every_template
@pytest.mark.compare
def test_as_transformers_does(path: Any) -> None:
    pytest.importorskip("transformers")
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    source = path.read_text()
    for messages in (TALK, [SYSTEM, *TALK], CALLS, [SYSTEM, *CALLS]):
        for tools in (None, TOOLS):
            for prompt in (False, True):
                options = {"tools": tools, "add_generation_prompt": prompt}
                try:
                    theirs = render_jinja_template([messages], chat_template=source, **options, **Names().names)[0][0]
                except (TemplateError, TypeError):
                    continue  # where ours has another try: a system message, no tools
                assert template(source).render(messages, **options) == theirs


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", "<BOS>|<EOS>|"),
        ("  {% if true %}\n a\n  {% endif %}\n", " a\n"),
        ("{{ messages[0]|tojson }}", '{"role": "user", "content": "Hi \\"there\\" <b>\\n"}'),
        ("{{ {'é': [1, '>']}|tojson(indent=1) }}", '{\n "é": [\n  1,\n  ">"\n ]\n}'),
        ("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}"
            "{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("{% generation %}a{{ messages[0].role }}{% endgeneration %}", "auser"),
        ("{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ 'a' ~ 1 ~ none ~ 'b' + 'c' * 3 }}{{ 2 ** 10 }}{{ [1] + [2] }}", "a1Nonebccc1024[1, 2]"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ messages[0]['content'].strip()[:2] }}", "<a>Hi"),
        ("{{ enable_thinking }}{{ messages|length }}", "no1"),
        (
            "{{ 'a'|center(3) }}{{ 'b\nc'|indent(2) }}{{ 'aba'|replace('a', 'x', 1) }}{{ [1, 2]|join('-') }}",
            " a b\n  cxba1-2",
        ),
        (
            "{{ '%s%03d%%' % ('a', 7) }}{{ '%s'|format('b') }}{{ 7 % 4 }}{{ 7 // 2 }}{{ 7 - 2 }}{{ 1 / 2 }}",
            "a007%b3350.5",
        ),
        ("{{ 'a'.center(3) }}{{ '7'.zfill(2) }}{{ 'b\t'.expandtabs(2) }}{{ 'aa'.replace('a', 'x', 1) }}", " a 07b xa"),
        ("{{ ','.join(messages|map(attribute='role')) }}{{ messages|map(attribute='role')|join }}", "useruser"),
        ("{{ '{:>3}{a}{b[c]!r}'.format(1, a=2, b={'c': 'd'}) }}{{ '{a}'.format_map({'a': 3}) }}", "  12'd'3"),
        ("{{ [[1], [2]]|sum(start=[]) }}{{ [1, 2, 3]|batch(2, 0)|list }}", "[1, 2][[1, 2], [3, 0]]"),
        (
            "{% set x %}{{ 1 }}{% endset %}{{ x }}{% filter upper %}b{% endfilter %}{{ {'a': 1}.items() }}",
            "1Bdict_items([('a', 1)])",
        ),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source, enable_thinking="no") == text


def test_the_time() -> None:
    assert re.fullmatch(r"\d{4}-\d\d", render("{{ strftime_now('%Y-%m') }}"))


def test_tools_are_json() -> None:
    assert json.loads(render("{{ tools|tojson }}", tools=TOOLS)) == TOOLS
    assert render("{{ tools|tojson }}", tools=[]) == "null"
    with pytest.raises(RequestError, match="tools must be made of JSON's types"):
        render("{{ tools }}", tools=[{"a": object()}])


def test_which_template() -> None:
    assert template(None).render([USER]) == f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"
    assert template(CHATML).render([USER], add_generation_prompt=False).endswith("<|im_end|>\n")
    both = template(None, default="a", tool_use="b")
    assert (both.render([USER]), both.render([USER], TOOLS)) == ("a", "b")
    assert template("c", default="a", tool_use="b").render([USER], TOOLS) == "c"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "[user:a\nb]"),
        ({"content": []}, "[user:]"),
        ({"content": None}, "[user:]"),
        ({}, "[user:]"),
        ({"role": "developer", "content": "a"}, "[system:a]"),
    ],
)
def test_forms_of_content(message: dict[str, Any], text: str) -> None:
    assert render(ECHO, [{"role": "user", **message}]) == text


@pytest.mark.parametrize(
    ("source", "roles", "text"),
    [
        (ECHO, "user developer system user", "[system:1\n\n2][user:0][user:3]"),
        (ECHO, "developer user", "[system:0][user:1]"),
        (ECHO, "user system", "[user:0][system:1]"),
        (ECHO + "{# developer #}", "user developer system", "[user:0][developer:1][system:2]"),
        (ECHO.replace("m.content", "m.content|map(attribute='text')|join('+')"), "system developer", "[system:0+1]"),
    ],
)
def test_developers_merged(source: str, roles: str, text: str) -> None:
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(roles.split())]
    assert render(source, messages, add_generation_prompt=False, merge_developers=True) == text


def test_a_developer_without_content() -> None:
    alone = "{% for m in messages %}{{ m.content or '' }}{{ m.tool_calls|tojson if m.tool_calls }}{% endfor %}"
    messages = [{"role": "developer", "tool_calls": [CALL]}, SYSTEM]
    assert render(alone, messages, merge_developers=True) == "Be brief."


def test_a_template_that_wants_parts() -> None:
    source = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    assert render(source, [USER | {"content": "a"}]) == "<a>"
    assert render(source, [USER | {"content": [{"type": "text", "text": "b"}]}, USER | {"content": None}]) == "<b>"


def test_a_template_without_system_messages() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + ECHO
    ignores = "{% for m in messages if m.role != 'system' %}" + ECHO.partition("%}")[2]
    for source in (refuses, ignores):
        assert render(source, [SYSTEM, {"role": "user", "content": "a"}]) == "[user:Be brief.\na]"
    with pytest.raises(RequestError, match=r"^no system$"):
        render(refuses, [SYSTEM])


@pytest.mark.parametrize(
    ("wants", "arguments"),
    [
        ("{{ c.function.arguments|tojson }}", '{"city": "Paris"}'),
        ("{{ 'x' + c.function.arguments }}", 'x{"city": "Paris"}'),
    ],
)
def test_arguments_of_calls(wants: str, arguments: str) -> None:
    source = "{% for m in messages %}{% for c in m.tool_calls or [] %}" + wants + "{% endfor %}{% endfor %}"
    as_text = {"function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    for call in (CALL, as_text):
        assert render(source, [USER, {"role": "assistant", "tool_calls": [call]}]) == arguments


@pytest.mark.parametrize("arguments", ["", "{", '{"city": Paris}', "[" * 100_000], ids=lambda text: text[:16])
def test_arguments_that_are_not_json(arguments: str) -> None:
    source = "{% for c in messages[0].tool_calls %}{{ c.function.arguments|tojson }}{% endfor %}"
    call = {"function": {"name": "get_weather", "arguments": arguments}}
    assert render(source, [{"role": "assistant", "tool_calls": [call]}]) == "{}"


def test_no_content_beside_calls() -> None:
    calls = "{% for c in m.tool_calls %}{{ c.function.arguments|tojson }}{% endfor %}"
    knows = "{% for m in messages %}{% if m.content is none %}" + calls + "{% endif %}{% endfor %}"
    prints = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}" + calls + "{% endif %}{% endfor %}"
    talk = [{"role": "user", "content": ""}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert render(knows, talk) == render(prints, talk) == '{"city": "Paris"}'


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts(name: str) -> None:
    message = {"role": "assistant", "content": "a", name: "hm"}
    assert render("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", [message]) == "hmhm"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (CHATML, "<|im_start|>assistant\nHello, "),
        ("{% for m in messages %}{{ m.content|trim }}<end>{% endfor %}", "Hello,"),
    ],
)
def test_continuing_the_last_message(source: str, text: str) -> None:
    last = {"role": "assistant", "content": "Hello, "}
    options = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(source, [USER, last], **options).endswith(text)
    parts = last | {"content": [{"type": "text", "text": "Hello, "}]}
    assert render(source, [USER, parts], **options).endswith(text)
    assert render(source, [USER, last | {"content": None}], **options).endswith(text[: -len("Hello, ")].rstrip(" "))
    with pytest.raises(RequestError, match="needs add_generation_prompt to be false"):
        render(source, [USER, last], continue_final_message=True)
    with pytest.raises(RequestError, match="leaves out"):
        render("none of it", [USER, last], **options)


def test_the_messages_are_left_as_they_are() -> None:
    talk = json.loads(json.dumps([SYSTEM, *CALLS]))
    render("{{ raise_exception('') if messages[0].role == 'system' }}" + ECHO, talk)
    assert talk == [SYSTEM, *CALLS]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ("hello", "at least one message"),
        ({"role": "user"}, "at least one message"),
        (["hello"], r"messages\[0\] must be an object with a role"),
        ([{"content": "a"}], r"messages\[0\] must be an object with a role"),
        ([USER, {"role": 3}], r"messages\[1\] must be an object with a role"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content must be a text or a list of parts, not 3"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"content\[0\] is of type 'image_url'; only text"),
        ([{"role": "user", "content": ["a"]}], r"content\[0\] is of type 'str'"),
        ([{"role": "user", "content": object()}], "JSON's types"),
        ([{"role": "assistant", "tool_calls": [3]}], r"tool_calls\[0\] must be an object with a function"),
        ([{"role": "assistant", "tool_calls": 3}], r"tool_calls\[0\] must be an object with a function"),
    ],
)
def test_messages_that_are_not_valid(messages: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        template(ECHO).render(messages)
    assert caught.value.parameter == "messages"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "^Roles must alternate$"),
        ("{{ messages[9].content + 'a' }}", "fails on this conversation: .*has no element 9"),
        ("{{ 1 // 0 }}", "fails on this conversation: "),
        ("{{ messages[0].content + 1 }}", "fails on this conversation: "),
        ("{{ ''.__class__.__mro__ }}", "fails on this conversation: .*unsafe"),
        ("{{ messages.append(1) }}", "fails on this conversation: .*unsafe"),
        ("{% include 'x' %}", "fails on this conversation: "),
    ],
)
def test_templates_that_fail(source: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        render(source)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'a", "{% for m in messages %}", "{{ a|nosuchfilter }}", "{{" + "(" * 3000]
)
def test_sources_that_are_not_valid(source: str) -> None:
    with pytest.raises(ModelError, match="the chat template is not valid: "):
        template(source)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set r = range(99999)|list %}{% for i in r %}{% for j in r %}{% set x = j %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in [messages] recursive %}{{ loop([i]) }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s * 9 %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 * 'a' }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ [messages] * 99999999 }}",
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ '%012000000000d' % 1 }}",
        "{{ '%*d' % (10 ** 10, 1) }}",
        "{{ ('%(a)s' * 9) % {'a': 'a' * 9999999} }}",
        "{{ '%012000000000d'|format(1) }}",
        "{{ 'a'|center(10 ** 10) }}",
        "{{ 'a'|indent(10 ** 10, true) }}",
        "{{ ('a\n' * 9999)|indent('b' * 9999) }}",
        "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}",
        "{{ ([messages] * 99999)|join('b' * 99999) }}",
        "{{ (['a' * 99999] * 99999)|join }}",
        "{{ (['a'] * 99999)|map('replace', 'a', 'b' * 99999)|list }}",
        "{{ [['a' * 99999] * 99999] }}",
        "{{ [['a' * 99999] * 99999] ~ 1 }}",
        "{{ ([['a' * 99999] * 99999]|string)[0] }}",
        "{{ ([['a' * 99999] * 99999]|tojson)[0] }}",
        "{{ ([1]|tojson(indent=10 ** 10))[0] }}",
        "{{ ([['a'] * 99999] * 99999)|sum(start=[])|length }}",
        "{{ [1]|batch(10 ** 10, 2)|list }}",
        "{{ [1]|slice(10 ** 10)|list }}",
        "{{ ('a ' * 99999)|wordwrap(1, wrapstring='b' * 99999) }}",
        "{{ 'a'.center(10 ** 10) }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ 'a'.rjust(10 ** 10) }}",
        "{{ 'a'.zfill(10 ** 10) }}",
        "{{ '\t'.expandtabs(10 ** 10) }}",
        "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
        "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
        "{{ ('a' * 99999).join(['b'] * 99999) }}",
        "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
        "{{ 'a'.encode().center(10 ** 10) }}",
        "{{ (1).to_bytes(10 ** 10, 'big') }}",
        "{{ '{:012000000000d}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10 ** 10) }}",
        "{{ ('{0}' * 99999).format('a' * 99999) }}",
        "{{ ('{a}' * 99999).format_map({'a': 'a' * 99999}) }}",
        "{{ lipsum(10 ** 10) }}",
        "{% set ns = namespace(n=9) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['a' * 9999999] %}{% endfor %}",
        "{{ ('a'|center(9999999))[0] }}" * 99,
        "{% macro f() %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endmacro %}{{ f()[0] }}",
    ],
)
def test_what_would_never_end(source: str) -> None:
    bounds = "it (takes|makes|reckons with)|maximum recursion depth|'lipsum' is undefined"
    with pytest.raises(RequestError, match=f"fails on this conversation: ({bounds})"):
        render(source)


def test_defaults_are_for_what_is_not_given():
    chat = ChatTemplate("{{ a }}{{ b }}", Names(chat_templates={}), {"a": 1, "b": 2})  # type: ignore[arg-type]
    assert chat.render([USER], b=3) == "13"


def test_time_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.1)
    with pytest.raises(RequestError, match=r"it takes more than .* seconds"):
        render("{% set s = 'a' * 30000000 %}{% for i in range(99999) %}{% set x = 'b' in s %}{% endfor %}")
