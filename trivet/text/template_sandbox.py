"""The Jinja environment that chat templates run in: what Hugging Face's offers them, and bounds on what they may use.

Templates come with model files, and with requests, so they are not trusted: jinja2's sandbox keeps them from Python's
insides, and a budget of steps, of characters and of time keeps them from running on for ever.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_LENGTH = 1 << 25
"""Characters (or items) of anything that a template makes."""

MAX_SECONDS = 5.0
"""Of one rendering: steps on long texts take long."""


class Raised(TemplateError):
    """A template's own complaint about a conversation."""


class BudgetError(TemplateError):
    """A template uses more than it may."""


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it is only its content."""

    tags = Extension.tags | {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Shared by all templates and threads; `start` gives the calling thread a budget for one rendering: a step is a
    call or a turn of a loop.
    """

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.turn = object()
        self._budget = threading.local()

    def start(self, steps: int) -> None:
        self._budget.steps = self._budget.left = steps
        self._budget.end = time.monotonic() + MAX_SECONDS

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = __self._budget
        budget.left -= 1
        if budget.left < 0:
            raise BudgetError(f"it takes more than {budget.steps} steps")
        if time.monotonic() > budget.end:
            raise BudgetError(f"it takes more than {MAX_SECONDS} seconds")
        if __obj is __self.turn:
            return ""
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            size = abs(right) * (left.bit_length() if isinstance(left, int) else 64)
        elif operator == "*":
            size = max(_length(left) * _count(right), _length(right) * _count(left))
        else:
            size = _length(left) + _length(right)
        check_length(size)
        return super().call_binop(context, operator, left, right)

    def join(self, *parts: Any) -> str:
        """The operator `~`."""
        texts = [str(part) for part in parts]
        check_length(sum(map(len, texts)))
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.body.insert(0, nodes.ExprStmt(_call("turn", [], loop.lineno)).set_lineno(loop.lineno))
        return _JoinCalls().visit(tree)


class _JoinCalls(NodeTransformer):
    """Has `a ~ b` go through `TemplateSandbox.join`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("join", node.nodes, node.lineno)


def _call(name: str, args: list[nodes.Expr], lineno: int) -> nodes.Call:
    """A call of an attribute of the sandbox."""
    call = nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None)
    call.set_lineno(lineno)
    return call


def check_length(size: float) -> None:
    if size > MAX_LENGTH:
        raise BudgetError(f"it makes something of more than {MAX_LENGTH} characters")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, it does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise Raised(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
