"""From a command line, the environment and a file to settings, by a table of flags."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet.errors import TrivetError
from trivet.server.flags import Flag, truth

Settings = dict[str, Any]


class WrongUse(TrivetError):
    """The command line cannot be understood."""


@dataclass(slots=True)
class Parsed:
    """positional: what belongs to no flag. notes: lines about flags that have no meaning here. greedy: flags that took
    several of the values that follow them.
    """

    settings: Settings = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    greedy: list[str] = field(default_factory=list)

    def take(self, flag: Flag, called: str, text: str) -> None:
        """Apply a flag, `called` so where it was given. Raises WrongUse."""
        try:
            value = flag.value(text)
        except ValueError as error:
            raise WrongUse(f"{called}: {error}") from None
        if text in flag.remarks:
            self._note(f"{called} {text}: {flag.remarks[text]}")
        if flag.sets:
            if flag.again or flag.several:
                value = (*self.settings.get(flag.sets, ()), *value)
            self.settings[flag.sets] = value
        elif flag.allowed is None:
            self._note(f"{called} has no effect: {flag.help}")
        elif text.lower() not in flag.allowed:
            bare = flag.switch and (text == "true" or called in flag.negations)
            shown = called if bare else f"{called} {text}"
            raise WrongUse(f"{shown} is not supported: {flag.help}")

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)


class Parser:
    """Reads command lines by a table. Of flags that share a spelling, the first in the table has it.

    A switch may be turned off with `--no-`, long flags may be written with underscores, and `--name.key VALUE` gives
    one key of a JSON object.
    """

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._flags = flags
        self._named: dict[str, Flag] = {}
        self._parser = _Argparse(add_help=False, allow_abbrev=False)
        for flag in flags:
            for names, text in ((flag.spellings, "true"), (flag.negations, "false")):
                if new := [name for name in names if name not in self._named]:
                    self._named |= dict.fromkeys(new, flag)
                    self._parser.add_argument(*new, action=_Take, flag=flag, text=text if flag.switch else flag.bare)

    def parse(self, argv: Iterable[str]) -> Parsed:
        """Raises WrongUse for unknown flags and values that are not right."""
        parsed = Parsed()
        _, rest = self._parser.parse_known_args(list(self._normal(argv)), argparse.Namespace(parsed=parsed))
        for token in rest:
            if token.startswith("-") and token not in ("-", "--"):
                raise WrongUse(self._unknown(token.partition("=")[0]))
        parsed.positional = [token for token in rest if token != "--"]
        return parsed

    def environment(self, environ: Mapping[str, str]) -> Parsed:
        """What variables say. One that is empty, or asks for the default, says nothing."""
        parsed = Parsed()
        for flag in self._flags:
            for name in flag.env.split():
                if environ.get(name):
                    parsed.take(flag, name, environ[name])
                negated = name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
                if flag.negations and negated != name and negated in environ:
                    parsed.take(flag, negated, "false")
        parsed.settings = {name: value for name, value in parsed.settings.items() if value is not None}
        return parsed

    def file(self, path: str) -> Parsed:
        """What a YAML file says, whose keys are long flags without their dashes. Raises WrongUse."""
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise WrongUse(f"--config {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeError) as error:
            raise WrongUse(f"--config {path}: not YAML: {error}") from None
        if not isinstance(content, dict):
            raise WrongUse(f"--config {path}: expected keys with values")
        parsed = Parsed()
        for key, value in content.items():
            name = f"--{str(key).replace('_', '-')}"
            if name == "--model-tag":
                name = "--model"
            if name not in self._named:
                raise WrongUse(f"--config {path}: {self._unknown(name)}")
            flag = self._named[name]
            for item in value if flag.again and isinstance(value, list) else [value]:
                if item is not None:
                    text = item if isinstance(item, str) else json.dumps(item)
                    parsed.take(flag, name, _negated(name, text) if name in flag.negations else text)
        return parsed

    def _normal(self, argv: Iterable[str]) -> Iterable[str]:
        """Long flags with dashes, JSON keys gathered; what looks like a flag and is none is refused here, as argparse
        would take `-nx` for `-n x`.
        """
        objects: dict[str, dict[str, Any]] = {}
        dotted = ""
        for token in argv:
            if dotted:
                _put(objects, dotted, token)
                dotted = ""
                continue
            name, equals, value = token.partition("=")
            if name.startswith("--"):
                name, dot, key = name.partition(".")
                name = name.replace("_", "-") + dot + key
                if key and name not in self._named and name.partition(".")[0] in self._named:
                    if equals:
                        _put(objects, name, value)
                    else:
                        dotted = name
                    continue
                yield name + equals + value
                continue
            if re.fullmatch(r"-[A-Za-z][\w-]*", name) and name not in self._named:
                glued = name[:2] in self._named and name[2:].isdigit()
                if not glued:
                    raise WrongUse(self._unknown(name))
            yield token
        if dotted:
            raise WrongUse(f"{dotted}: expected a value")
        for name, content in objects.items():
            yield f"{name}={json.dumps(content)}"

    def _unknown(self, name: str) -> str:
        known = [*self._named, "--help", "--version"]
        if name.startswith("--"):
            known = [flag for flag in known if flag.startswith("--")]
        near = difflib.get_close_matches(name, known, 1)
        return f"no such option: {name}" + (f", did you mean {near[0]}?" if near else "")


class _Argparse(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise WrongUse(re.sub(r"^argument (\S+): ", lambda m: f"{m[1].split('/')[0]}: ", message))


class _Take(argparse.Action):
    """Gives a flag to `Parsed.take`."""

    def __init__(self, option_strings: Sequence[str], dest: str, flag: Flag, text: str | None) -> None:
        nargs = 0 if flag.switch else "+" if flag.many else "?" if flag.bare is not None else None
        super().__init__(option_strings, argparse.SUPPRESS, nargs=nargs)
        self._flag = flag
        self._text = text

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parsed: Parsed = namespace.parsed
        texts = [values] if isinstance(values, str) else values or [self._text]
        if len(texts) > 1:
            parsed.greedy.append(option_string or "")
        for text in texts:
            # argparse gives nothing for `--flag=--`.
            parsed.take(self._flag, option_string or "", text or "")


def _negated(name: str, text: str) -> str:
    """What a switch is told by its `--no-` form with a value. Raises WrongUse."""
    try:
        return "false" if truth(text) else "true"
    except ValueError as error:
        raise WrongUse(f"{name}: {error}") from None


def _put(objects: dict[str, dict[str, Any]], name: str, text: str) -> None:
    """Add `--name.key.key VALUE` to the object of its name. Raises WrongUse."""
    first, *keys, last = name.split(".")
    place: Any = objects.setdefault(first, {})
    for key in keys:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise WrongUse(f"{name}: {key} has a value already, {place!r}")
    try:
        place[last] = json.loads(text)
    except json.JSONDecodeError:
        place[last] = text
