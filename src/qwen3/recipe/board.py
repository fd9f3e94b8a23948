"""Progress of the recipe on a terminal: stages at work with their last line, and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from qwen3.train.display import duration

PERIOD = 30.0  # seconds between lines where there is no terminal


class Board:
    """A context manager that shows jobs as they start and finish.

    shares: each job's share of the work. minutes: expected for all of it, from the budget; once
    this start has done a tenth of the work, its own speed counts. done: jobs of earlier starts.
    """

    def __init__(
        self,
        console: Console,
        shares: Mapping[str, float],
        minutes: float,
        done: Iterable[str] = (),
    ):
        self._console, self._shares, self._expected = console, shares, 60 * minutes
        self._done = set(done)
        self._before = self._share(self._done)
        self._running: dict[str, tuple[float, Path]] = {}  # start time, log file
        self._began = self._shown = time.monotonic()
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def started(self, job: str, log: Path) -> None:
        self._running[job] = (time.monotonic(), Path(log))
        self._say(f"[bold]{job}[/bold] begins; {self._head()}")

    def finished(self, job: str) -> None:
        began, _ = self._running.pop(job)
        self._done.add(job)
        self._say(f"[bold]{job}[/bold] {time.monotonic() - began:.0f} s")

    def refresh(self) -> None:
        """Show the last line of every log: at once on a terminal, else every PERIOD seconds."""
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - self._shown >= PERIOD:
            self._shown = time.monotonic()
            for job, (_, log) in self._running.items():
                if line := last_line(log):
                    self._say(f"{job}: {line}")

    def left(self, share: float) -> float:
        """Seconds until the end when `share` of the work is done."""
        progress = share - self._before  # of this start
        if progress < 0.1:
            return self._expected * (1 - share)
        return (time.monotonic() - self._began) * (1 - share) / progress

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table(title=self._head(), title_justify="left", show_header=False, show_edge=False)
        for job, (began, log) in self._running.items():
            table.add_row(job, duration(time.monotonic() - began), last_line(log))
        return table

    def _head(self) -> str:
        return (
            f"{len(self._done)} of {len(self._shares)} stages done, "
            f"about {duration(self.left(self._share(self._done)))} left"
        )

    def _share(self, jobs: Iterable[str]) -> float:
        return sum(self._shares[job] for job in jobs) / sum(self._shares.values())


def last_line(log: Path, tail: int = 4096) -> str:
    """The last line with text among the last `tail` bytes of a log file, "" for no file."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - tail))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
