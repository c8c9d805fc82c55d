"""The Jinja environment that chat templates run in: what Hugging Face's offers them, and bounds on what they may use.

Templates come with model files, and with requests, so they are not trusted: jinja2's sandbox keeps them from Python's
insides, and a budget of steps, of characters and of time keeps them from running on for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from trivet.text.template_bounds import (
    BOUNDS_OF_FILTERS,
    BOUNDS_OF_METHODS,
    BoundedFormatter,
    BudgetError,
    bound_of_operator,
    check_length,
    json_text,
    length,
    text_length,
)

MAX_TOTAL = 1 << 28
"""Characters (or items) of all that a template makes in one rendering."""

MAX_SECONDS = 5.0
"""Of one rendering: steps on long texts take long."""


class Raised(TemplateError):
    """A template's own complaint about a conversation."""


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here it is only its content."""

    tags = Extension.tags | {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Shared by all templates and threads; `start` gives the calling thread a budget for one rendering: a step is a
    call, a filter or a turn of a loop. Nothing is computed before that: constants are not folded.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            optimized=False,
            finalize=_printable,
        )
        self.filters["tojson"] = _to_json
        self.filters = {name: self._bounded(filter, name) for name, filter in self.filters.items()}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]
        self.turn = object()
        self._budget = threading.local()

    def start(self, steps: int) -> None:
        self._budget.steps = self._budget.left = steps
        self._budget.end = time.monotonic() + MAX_SECONDS
        self._budget.total = 0

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._step()
        if __obj is __self.turn:
            return ""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes | int) and __obj.__name__ in BOUNDS_OF_METHODS:
            args = _lists(args)
            check_length(BOUNDS_OF_METHODS[__obj.__name__](owner, *args, **kwargs))
        return __self._made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_length(bound_of_operator(operator, left, right))
        return self._made(super().call_binop(context, operator, left, right))

    def join(self, *parts: Any) -> str:
        """The operator `~`."""
        check_length(text_length(parts))
        return "".join(map(str, parts))

    def concat(self, parts: Iterable[str]) -> str:
        """What a macro or a block writes."""
        texts = list(parts)
        check_length(sum(map(len, texts)))
        return self._made("".join(texts))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            fields = ((), *args) if value.__name__ == "format_map" else (args, kwargs)
            return BoundedFormatter(self).vformat(value.__self__, *fields)

        return formatted

    def _step(self) -> None:
        budget = self._budget
        budget.left -= 1
        if budget.left < 0:
            raise BudgetError(f"it takes more than {budget.steps} steps")
        if time.monotonic() > budget.end:
            raise BudgetError(f"it takes more than {MAX_SECONDS} seconds")

    def _made(self, value: Any) -> Any:
        self._budget.total += length(value)
        if self._budget.total > MAX_TOTAL:
            raise BudgetError(f"it makes more than {MAX_TOTAL} characters in all")
        return value

    def _bounded(self, filter: Callable[..., Any], name: str) -> Callable[..., Any]:
        own = 1 if hasattr(filter, "jinja_pass_arg") else 0

        @wraps(filter)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._step()
            if name in BOUNDS_OF_FILTERS:
                args = _lists(args)
                check_length(BOUNDS_OF_FILTERS[name](*args[own:], **kwargs))
            return self._made(filter(*args, **kwargs))

        return bounded

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


def _lists(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with what is made one by one made into lists."""
    return tuple(list(arg) if isinstance(arg, Iterator) else arg for arg in args)


@pass_context
def _printable(_: Context, value: Any) -> Any:
    if not isinstance(value, str):
        check_length(text_length(value))
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, it does not escape HTML."""
    return json_text(value, indent, separators, ensure_ascii=ensure_ascii, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise Raised(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
