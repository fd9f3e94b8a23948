"""Plots of the report as SVG text; a claim's `plot` says kind and values.

Legends stand below the axes, long names are broken into lines, and all that is not data has the
page's text colour, so that a plot is read on a phone and on a dark page alike.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which is the notebook's
from matplotlib.ticker import MaxNLocator

COLOURS = ("#5b7cf0", "#e07b39", "#2fa572", "#b565c9", "#8f97a8")
INK = "#010203"  # stands for the page's text colour until the text of the SVG is written
WIDTH = 4.6  # inches; a phone shows it at three quarters of its size
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "recipe",  # the same plot is the same text
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def svg(plot: Mapping[str, Any]) -> str:
    """The figure as an <svg> element, on a transparent ground."""
    with matplotlib.rc_context(STYLE):
        figure = DRAW[plot["kind"]](plot)
        stream = io.StringIO()
        bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # no metadata in the file
        figure.savefig(stream, format="svg", bbox_inches="tight", transparent=True, metadata=bare)
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _axes(plot: Mapping[str, Any]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 2.9))
    axes = figure.subplots()
    axes.set_title(plot["title"], loc="left", fontsize=10)
    return figure, axes


def _legend(axes: Axes, below: float) -> None:
    """A legend `below` the axes, in units of their height."""
    axes.legend(
        frameon=False,
        fontsize=8,
        ncols=2,
        loc="upper left",
        bbox_to_anchor=(0, -below),
        borderaxespad=0,
    )


def _errors(estimates: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[e[0] - e[1] for e in estimates], [e[2] - e[0] for e in estimates]]


def bars(plot: Mapping[str, Any]) -> Figure:
    """Groups of bars with their intervals: a group for each name, a colour for each series."""
    figure, axes = _axes(plot)
    width = 0.8 / len(plot["series"])
    for i, (label, values) in enumerate(plot["series"].items()):
        axes.bar(
            [n + i * width for n in range(len(values))],
            [v[0] for v in values],
            0.92 * width,
            yerr=_errors(values),
            ecolor=INK,
            capsize=2,
            label=label,
            color=COLOURS[i],
        )
    names = [textwrap.fill(name, 12) for name in plot["names"]]
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(names))], names)
    axes.set_ylim(0, 1.02)
    _legend(axes, 0.1 + 0.055 * max(name.count("\n") + 1 for name in names))
    return figure


def lines(plot: Mapping[str, Any]) -> Figure:
    """A line with intervals for each series; `level`: a dashed line without thinking."""
    figure, axes = _axes(plot)
    for i, (label, values) in enumerate(plot["series"].items()):
        known = [(x, v) for x, v in zip(plot["x"], values, strict=True) if v[0] is not None]
        axes.errorbar(
            [x for x, _ in known],
            [v[0] for _, v in known],
            yerr=_errors([v for _, v in known]),
            marker="o",
            markersize=3,
            capsize=2,
            label=label,
            color=COLOURS[i],
        )
    if "level" in plot:
        axes.axhline(plot["level"], linestyle="--", color=INK, label="non-thinking")
    if plot.get("log"):
        axes.set_xscale("log", base=2)
        axes.set_xticks(plot["x"], [str(x) for x in plot["x"]])
        axes.minorticks_off()
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(plot["y_label"])
    _legend(axes, 0.16)
    return figure


def curves(plot: Mapping[str, Any]) -> Figure:
    """Values by step: a panel for each series, two in a row, or all in one panel (`one`)."""
    series = plot["series"]
    if plot.get("one"):
        figure, axes = _axes(plot)
        panels = [axes] * len(series)
    else:
        rows = -(-len(series) // 2)
        figure = Figure(figsize=(WIDTH, 1.9 * rows))
        panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes, colour, (label, values) in zip(panels, COLOURS, series.items(), strict=False):
        known = [(x, y) for x, y in zip(plot["x"], values, strict=True) if y is not None]
        axes.plot([x for x, _ in known], [y for _, y in known], label=label, color=colour)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if not plot.get("one"):
            axes.set_title(label, loc="left", fontsize=10)
    if plot.get("one"):
        _legend(panels[0], 0.22)
    else:
        figure.tight_layout()
    return figure


def heat(plot: Mapping[str, Any]) -> Figure:
    """Shares of experts (columns) by domain (rows), a panel for each grid, one scale for all."""
    grids, domains = plot["grids"], plot["domains"]
    figure = Figure(figsize=(WIDTH, 0.3 * len(domains) + 1.2))
    panels = figure.subplots(1, len(grids), squeeze=False, sharey=True)[0]
    highest = max(value for grid in grids.values() for row in grid for value in row)
    for axes, (label, grid) in zip(panels, grids.items(), strict=True):
        image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=highest)
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_yticks(range(len(domains)), domains)
        axes.set_xlabel("expert (last layer)")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.tight_layout()
    bar = figure.colorbar(image, ax=list(panels), fraction=0.05, pad=0.03)
    bar.set_label(plot["title"], fontsize=8)
    return figure


DRAW: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    "bars": bars,
    "lines": lines,
    "curves": curves,
    "heat": heat,
}
