"""What a flag of a command line means here, as data. A flag list is a dialect too: each has its table in
`dialects/*/flags.py`, and `cli/neutral.py` has our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet.api.args import CACHE_DTYPES, parse_size
from trivet.engine.config import join_cache_dtype, split_cache_dtype

Reader = Callable[[str], Any]
TRUE = ("true", "1", "on", "enabled", "yes")
FALSE = ("false", "0", "off", "disabled", "no")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
OTHER_CACHES = ("q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "fp8_e5m2")
NO_SUCH_CACHE = dict.fromkeys(OTHER_CACHES, "the KV cache is kept in the model's own type, which is more exact")
"""Remarks on the types of cache that there are not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One row of a table.

    names: its spellings, parted by spaces; none for what only the environment can say.
    sets: the setting that takes the value: a field of EngineArgs, ServerOptions or ListenOptions, one of
        `cli.settings.DERIVED`, or `sampling.NAME` (a default of requests) or `environ.NAME` (a variable that
        libraries read); empty for a flag that has no meaning here.
    help: what it does here or, where it has no meaning, why.
    read: a value from its text; raises ValueError with the rule it breaks. None makes the flag a switch, which takes
        no value and has a `--no-` form.
    metavar: what to call the value.
    off: more spellings of a switch's other direction.
    on: what a switch sets when it is on; only one that sets True has an off.
    again: it may be given again.
    several: so it may, and a value may hold more than one, parted by commas or as a JSON list.
    many: it takes all values that follow it.
    bare: the value it has when it is given without one; None means that it needs one.
    allowed: where the flag has no meaning, the values (in lower case) that ask for nothing; others are refused. None:
        any.
    remarks: what to say when it has one of these values.
    env: variables that say the same, parted by spaces.
    """

    names: str
    sets: str = ""
    help: str
    read: Reader | None = str
    metavar: str = "VALUE"
    off: str = ""
    on: Any = True
    again: bool = False
    several: bool = False
    many: bool = False
    bare: str | None = None
    allowed: tuple[str, ...] | None = None
    remarks: Mapping[str, str] = field(default_factory=dict)
    env: str = ""

    @property
    def switch(self) -> bool:
        return self.read is None

    @property
    def spellings(self) -> list[str]:
        return self.names.split()

    @property
    def negations(self) -> list[str]:
        """Spellings that turn a switch off."""
        if not self.switch or self.on is not True:
            return []
        long = [name for name in self.spellings if name.startswith("--") and not name.startswith("--no-")]
        return [*self.off.split(), *(f"--no-{name[2:]}" for name in long if f"--no-{name[2:]}" not in self.off.split())]

    def value(self, text: str) -> Any:
        """What `text` stands for; None is the default. Raises ValueError with the rule it breaks."""
        if self.read is None:
            return self.on if truth(text) else (False if self.on is True else None)
        if self.again:
            return (self.read(text),)
        if self.several:
            parts = json_list(text) if text.startswith("[") else text.split(",")
            return tuple(self.read(part.strip()) for part in parts if part.strip())
        return self.read(text)


def flag(names: str, sets: str, read: Reader | None, help: str, metavar: str = "N", **more: Any) -> Flag:
    """A flag that sets something."""
    return Flag(names=names, sets=sets, read=read, help=help, metavar=metavar, **more)


def unused(names: str, why: str, **more: Any) -> Flag:
    """A flag that takes a value and has no meaning here."""
    return Flag(names=names, help=why, **more)


def idle(names: str, why: str, **more: Any) -> Flag:
    """A switch that has no meaning here."""
    return Flag(names=names, help=why, read=None, **more)


def refused(names: str, why: str, *allowed: str, **more: Any) -> Flag:
    """A flag that takes a value, and is refused but for values that ask for nothing."""
    return Flag(names=names, help=why, allowed=allowed, **more)


def forbidden(names: str, why: str, allowed: str = "false", **more: Any) -> Flag:
    """A switch that is refused in one direction."""
    return Flag(names=names, help=why, read=None, allowed=(allowed,), **more)


def truth(text: str) -> bool:
    """A switch's value where it has to be written, in the environment or in a file."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(f"must be true or false, got {text!r}")


def whole(low: int | None = None, high: int | None = None) -> Reader:
    """A whole number within bounds."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number, got {text!r}") from None
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"between {low} and {high}" if high is not None else f"at least {low}"
            raise ValueError(f"must be {bounds}, got {value}")
        return value

    return read


def number(low: float | None = None, high: float | None = None) -> Reader:
    """A number within bounds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be a number, got {text!r}") from None
        if not math.isfinite(value):
            raise ValueError(f"must be finite, got {text}")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"between {low:g} and {high:g}" if high is not None else f"at least {low or 0:g}"
            raise ValueError(f"must be {bounds}, got {text}")
        return value

    return read


def size(text: str) -> int:
    """A number that may have a unit: 16k, 4G."""
    return parse_size(text, "it")


def or_default(read: Reader, *defaults: str) -> Reader:
    """As `read`, but some texts ask for the default: None."""
    return lambda text: None if text in defaults else read(text)


def choice(*names: str) -> Reader:
    """One of some words, whatever its case."""

    def read(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"must be one of {', '.join(names)}, got {text!r}")
        return text.lower()

    return read


def log_level(text: str) -> str:
    """A level of Python's logging, by any of the names in use for it."""
    word = {"warn": "warning", "trace": "debug", "fatal": "critical"}.get(text.lower(), text)
    return choice(*LOG_LEVELS)(word).upper()


def cache_type(text: str) -> str:
    """A type of the cached keys or values; what there is not here is taken as "auto"."""
    if text in OTHER_CACHES:
        return "auto"
    if text not in CACHE_DTYPES:
        raise ValueError(f"must be one of {', '.join([*CACHE_DTYPES, *OTHER_CACHES])}, got {text!r}")
    return CACHE_DTYPES[text]


def cache_dtype(text: str) -> str:
    """One type for both, or KEYS/VALUES."""
    return join_cache_dtype(*map(cache_type, split_cache_dtype(text)))


def device(text: str) -> str:
    """auto, cpu or cuda, also by llama.cpp's names: none is the CPU, CUDA0 the first GPU."""
    return choice("auto", "cpu", "cuda")({"none": "cpu", "cuda0": "cuda", "cuda:0": "cuda"}.get(text.lower(), text))


def json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, got {text!r}")
    return value


def url_path(text: str) -> str:
    """A path of URLs: /api/x, or nothing."""
    path = text.rstrip("/")
    if path and not path.startswith("/"):
        raise ValueError(f"must begin with /, got {text!r}")
    return path


def json_list(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a list, got {text!r} ({error})") from None
    if not all(isinstance(part, str) for part in value):
        raise ValueError(f"must be a list of strings, got {text!r}")
    return value


def file_text(path: str) -> str:
    """What a file holds."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
