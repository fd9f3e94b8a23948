"""What a notebook shows: rows as a table, and as curves with their intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure  # not pyplot, which is the notebook's
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

Rows = Sequence[Mapping[str, Any]]
WIDEST = 400  # characters of a cell


class Plot(Figure):
    """A figure that a notebook shows whatever its backend is."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", bbox_inches="tight")
        return stream.getvalue()


def table(rows: Rows, columns: Sequence[str] = ()) -> Table:
    """The rows as a table, which a notebook shows and `rich.print` prints.

    columns: keys of the rows, in this order; () for all. Long texts are cut in the middle. Raises
    ValueError for a column that no row has, naming those there are.
    """
    known = list(dict.fromkeys(key for row in rows for key in row))
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(f"columns {unknown}: the rows have {', '.join(known) or 'none'}")
    result = Table(show_lines=True)
    names = list(columns) or known
    for name in names:
        result.add_column(name, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(row.get(name)) for name in names))
    return result


def curves(
    rows: Rows, names: Sequence[str], *, x: str = "step", band: tuple[str, str] | None = None
) -> Plot:
    """A panel for each of `names` over `x`, of the rows that have both.

    band: keys of a lower and an upper bound, drawn in the first panel. Raises ValueError for a name
    that no row has, naming those there are.
    """
    known = list(dict.fromkeys(key for row in rows for key in row))
    if unknown := [name for name in (x, *names) if name not in known] or not names:
        raise ValueError(
            f"nothing to plot as {unknown}: the rows have {', '.join(known) or 'none'}"
        )
    plot = Plot(figsize=(4.2 * len(names), 3.0), layout="constrained")
    for axes, name in zip(plot.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [row for row in rows if name in row and x in row]
        places = [row[x] for row in points]
        axes.plot(places, [float(row[name]) for row in points], marker=".")
        if band is not None and name == names[0]:
            bounds = [[float(row[key]) for row in points] for key in band]
            axes.fill_between(places, *bounds, alpha=0.2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=x, title=name)
    return plot


def _cell(value: Any) -> Text:
    if isinstance(value, float):
        return Text(f"{value:.3g}")
    text = "" if value is None else str(value).strip()
    half = WIDEST // 2
    return Text(text if len(text) <= WIDEST else f"{text[:half]} [...] {text[-half:]}")
