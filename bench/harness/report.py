"""What comes out of a comparison: JSON with every sample, a Markdown table of medians and ratios, a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

COLOURS = {"trivet": "#3b6fb6", "fast": "#7fb0e8", "llamacpp": "#d9822b", "vllm": "#5a9e6f", "openvino": "#8a6bb1"}
LIMIT_COLOUR = "#999999"
MOST_LEVEL = 6  # groups whose names have room beside each other


def spread(values: Sequence[float]) -> float | None:
    """How far samples lie apart, as a share of their median; None of a single one."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 else None


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def times(ratio: float) -> str:
    return f"{ratio:.2f}×"


def ratio(ours: float | None, theirs: float | None) -> str:
    return times(ours / theirs) if ours and theirs else "–"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first two columns are text, the others numbers."""
    rule = ["---" if i < 2 else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def preamble(machine: dict[str, Any], limits: str) -> str:
    system = machine["system"]
    return (
        f"{system['processor']}, {machine['threads']} threads, {system['isa']}; {machine['date']}, commit "
        f"{machine['commit']}; load before the run {machine['load_before']:.2f}.\n\nLimits measured in this run: "
        f"{limits}.\n"
    )


def write(output: Path, results: dict[str, Any], text: str) -> None:
    """`output`.json and `output`.md."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    output.with_suffix(".md").write_text(text)


def bars(
    path: Path,
    title: str,
    panels: dict[str, dict[str, dict[str, float]]],
    titles: dict[str, str],
    label: str,
    limits: dict[str, dict[str, float]] | None = None,
) -> None:
    """A panel for each case, in it a group for each format, in it a bar for each system.

    panels: case -> group -> system -> value. limits: case -> group -> the value that cannot be exceeded.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * lines + 0.6), layout="constrained")
    figure.suptitle(title)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    systems = list(dict.fromkeys(name for groups in panels.values() for values in groups.values() for name in values))
    width = 0.8 / len(systems)
    for axis, (case, groups) in zip(axes, panels.items(), strict=False):
        for place, (group, values) in enumerate(groups.items()):
            for index, name in enumerate(systems):
                if name in values:
                    left = place - 0.4 + width * (index + 0.5)
                    axis.bar(left, values[name], width, color=COLOURS[name], label=titles[name])
                    axis.annotate(
                        number(values[name]),
                        (left, values[name]),
                        (0, 2),
                        textcoords="offset points",
                        ha="center",
                        va="bottom",
                        rotation=90,  # beside a bar of the same height there is no room for more
                        fontsize=7,
                    )
            if limits and (limit := limits[case].get(group)):
                axis.hlines(limit, place - 0.4, place + 0.4, color=LIMIT_COLOUR, linestyle="--", label="limit")
        axis.set(title=case, ylabel=label)
        axis.margins(y=0.12)
        axis.set_xticks(range(len(groups)), list(groups), rotation=45 if len(groups) > MOST_LEVEL else 0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    found = {
        text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False)
    figure.savefig(path, dpi=110)
