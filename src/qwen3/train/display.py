"""What a person sees of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

# Metric, column heading, format. Metrics that a run does not have are left out.
COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("correct", "correct", "{:.3f}"),
    ("eval/score", "held out", "{:.3f}"),
    ("learning_rate", "rate", "{:.3g}"),
    ("grad_norm", "grad", "{:.3g}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("input_wait", "input wait", "{:.1%}"),
    ("max_load", "expert load max", "{:.2f}"),
    ("min_load", "min", "{:.2f}"),
    ("skipped", "skipped", "{:.0f}"),
)


class Display:
    """A writer of `metrics.Meter` that shows stage, step, time left and the metrics of COLUMNS.

    On a terminal one live table, otherwise a line at most every `period` seconds and at the end.
    """

    def __init__(
        self, *, stage: str, until: int, period: float = 10.0, console: Console | None = None
    ) -> None:
        self._stage, self._until, self._period = stage, until, period
        self._console = console or Console(file=sys.stderr)
        self._shown = float("-inf")  # when the last line was printed
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2)
            self._live.start()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        cells = self.cells(step, values)
        if self._live is not None:
            self._live.update(_table(cells))
        elif step == self._until or time.monotonic() - self._shown >= self._period:
            self._console.print(
                "  ".join(f"{name} {text}" for name, text in cells), soft_wrap=True, highlight=False
            )
            self._shown = time.monotonic()

    def cells(self, step: int, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(heading, text) of every column."""
        head = [("stage", self._stage), ("step", f"{step}/{self._until}")]
        if "seconds" in values:
            head.append(("ETA", duration((self._until - step) * values["seconds"])))
        return head + [
            (heading, form.format(values[metric]))
            for metric, heading, form in COLUMNS
            if metric in values
        ]

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds, with days in front of a day or more."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"


def _table(cells: list[tuple[str, str]]) -> Table:
    table = Table(show_edge=False)
    for heading, _ in cells:
        table.add_column(heading, justify="right")
    table.add_row(*(text for _, text in cells))
    return table
