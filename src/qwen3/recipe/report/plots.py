"""Plots of the report as SVG text; a claim's `plot` says kind and values."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure  # not pyplot, which is the notebook's

COLOURS = ("#4c5fd7", "#d7734c", "#3a9d6e", "#a455b5", "#8a8a8a")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "recipe",
    "svg.fonttype": "none",
}


def svg(plot: dict) -> str:
    """The figure as an <svg> element."""
    with matplotlib.rc_context(STYLE):
        figure = DRAW[plot["kind"]](plot)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _axes(plot, width=5.4):
    figure = Figure(figsize=(width, 2.9))
    axes = figure.subplots()
    axes.set_title(plot["title"], loc="left", fontsize=10)
    return figure, axes


def _errors(estimates):
    below = [e[0] - e[1] for e in estimates]
    return [below, [e[2] - e[0] for e in estimates]]


def bars(plot):
    figure, axes = _axes(plot)
    wide = 0.8 / len(plot["series"])
    for i, (label, values) in enumerate(plot["series"].items()):
        x = [n + i * wide for n in range(len(values))]
        axes.bar(
            x,
            [v[0] for v in values],
            0.92 * wide,
            yerr=_errors(values),
            capsize=2,
            label=label,
            color=COLOURS[i],
        )
    middle = 0.4 - wide / 2
    axes.set_xticks([n + middle for n in range(len(plot["names"]))], plot["names"])
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(1, 0))
    return figure


def lines(plot):
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
        axes.axhline(plot["level"], linestyle="--", color="#555", label="non-thinking")
    if plot.get("log"):
        axes.set_xscale("log", base=2)
        axes.set_xticks(plot["x"], [str(x) for x in plot["x"]])
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(plot["y_label"])
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(1, 0))
    return figure


def curves(plot):
    """One panel a series, or all in one (`one`)."""
    series = plot["series"]
    count = 1 if plot.get("one") else len(series)
    figure = Figure(figsize=(2.6 * count + 1.5, 2.6))
    panels = figure.subplots(1, count, squeeze=False)
    for i, (label, values) in enumerate(series.items()):
        axes = panels[0][0 if count == 1 else i]
        known = [(x, y) for x, y in zip(plot["x"], values, strict=True) if y is not None]
        axes.plot([x for x, _ in known], [y for _, y in known], label=label, color=COLOURS[i])
        axes.set_title(plot["title"] if count == 1 else label, loc="left", fontsize=10)
        axes.set_xlabel("step")
    if count == 1:
        panels[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def heat(plot):
    grids = plot["grids"]
    figure = Figure(figsize=(3.4 * len(grids), 0.35 * len(plot["domains"]) + 1.3))
    panels = figure.subplots(1, len(grids), squeeze=False)
    highest = max(value for grid in grids.values() for row in grid for value in row)
    for axes, (label, grid) in zip(panels[0], grids.items(), strict=True):
        axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=highest)
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_yticks(range(len(plot["domains"])), plot["domains"])
        axes.set_xlabel("expert (last layer)")
    figure.tight_layout()
    return figure


DRAW = {"bars": bars, "lines": lines, "curves": curves, "heat": heat}
