"""Ending a stream of text at the first of several strings."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable


class StopStrings:
    """Passes text through until a stop string is complete; of several, the one that ends first wins, and of those that
    end together the longest. What may still become one is held back, and nothing else.

    include: let the stop string itself through.
    at_ends: look for stop strings only where what is pushed ends.
    matched: the stop string that was found. No text comes after it.

    Raises ValueError when a stop string is empty.
    """

    def __init__(self, stops: Iterable[str], include: bool = False, at_ends: bool = False) -> None:
        self._stops = sorted(set(stops))
        if self._stops and not self._stops[0]:
            raise ValueError("a stop string must not be empty")
        self._include = include
        self._at_ends = at_ends
        self._held = ""
        self._root = _Node(0, len(self._stops), 0)
        self._node = self._root
        self.matched: str | None = None

    def push(self, text: str, match: bool = True) -> str:
        """Take more text, whatever way it is cut; returns what is now certain to belong to the output.

        match: whether a stop string may end in this text.
        """
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        for i, char in enumerate(text):
            self._node = self._step(self._node, char)
            looks = match and (not self._at_ends or i == len(text) - 1)
            if looks and (stop := self._node.match) is not None:
                self.matched = stop
                out = self._held + text[: i + 1]
                self._held = ""
                return out if self._include else out[: len(out) - len(stop)]
        out = self._held + text
        keep = len(out) if self._include else len(out) - self._node.depth
        self._held = out[keep:]
        return out[:keep]

    def flush(self) -> str:
        """The text has ended: returns what was held back."""
        out, self._held = self._held, ""
        self._node = self._root
        return out

    def _step(self, node: _Node, char: str) -> _Node:
        """Follow a character in the Aho-Corasick automaton of the stop strings, whose nodes are made when first
        visited: thousands of strings then cost no more than sorting them.
        """
        made: list[_Node] = []
        reached = None
        while True:
            is_new = char not in node.children
            child = self._child(node, char) if is_new else node.children[char]
            if child is not None:
                reached = reached or child
                if not is_new:
                    break
                made.append(child)
            if node.shorter is None:
                child = node
                break
            node = node.shorter
        for longer, shorter in zip(reversed(made), [child, *reversed(made)], strict=False):
            longer.shorter = shorter
            if longer.match is None:
                longer.match = shorter.match
        return reached or self._root

    def _child(self, node: _Node, char: str) -> _Node | None:
        def char_at_depth(stop: str) -> str:
            return stop[node.depth : node.depth + 1]

        first = bisect_left(self._stops, char, node.first, node.end, key=char_at_depth)
        end = bisect_right(self._stops, char, first, node.end, key=char_at_depth)
        child = _Node(first, end, node.depth + 1) if first < end else None
        if child is not None and len(self._stops[first]) == child.depth:
            child.match = self._stops[first]
        node.children[char] = child
        return child


class _Node:
    """A prefix of stop strings: those from `first` to before `end`, `depth` characters long.

    shorter: the node of its longest proper suffix that is a prefix too; None at the root.
    match: the longest stop string that it ends with.
    """

    __slots__ = ("children", "depth", "end", "first", "match", "shorter")

    def __init__(self, first: int, end: int, depth: int) -> None:
        self.first = first
        self.end = end
        self.depth = depth
        self.children: dict[str, _Node | None] = {}
        self.shorter: _Node | None = None
        self.match: str | None = None
