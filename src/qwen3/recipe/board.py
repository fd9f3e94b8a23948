"""What a person sees of the recipe: stages at work with their last line, and the time left."""

from __future__ import annotations

import time
from pathlib import Path

from rich.live import Live
from rich.table import Table

from qwen3.train.display import duration

PERIOD = 30.0  # seconds between lines where there is no terminal


class Board:
    """shares: {job: its share of the work}, of all jobs. minutes: of the whole, as planned; the
    speed of this start counts once it has done a tenth. done: jobs of an earlier start."""

    def __init__(self, console, shares, minutes, done=()):
        self._console, self._shares, self._planned = console, shares, 60 * minutes
        self._done, self._before = set(done), self._share(done)
        self._running: dict = {}
        self._began = self._shown = time.monotonic()
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def started(self, job, log: Path) -> None:
        self._running[job] = (time.monotonic(), Path(log))
        self._say(f"[bold]{job}[/bold] begins; {self._head()}")

    def finished(self, job) -> None:
        began, _ = self._running.pop(job)
        self._done.add(job)
        self._say(f"[bold]{job}[/bold] {time.monotonic() - began:.0f} s")

    def refresh(self) -> None:
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - self._shown >= PERIOD:
            self._shown = time.monotonic()
            for job, (_, log) in self._running.items():
                self._say(f"{job}: {last_line(log)}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table(title=self._head(), title_justify="left", show_header=False, show_edge=False)
        for job, (began, log) in self._running.items():
            table.add_row(str(job), duration(time.monotonic() - began), last_line(log))
        return table

    def _head(self) -> str:
        share = self._share(self._done)
        return (
            f"{len(self._done)} of {len(self._shares)} stages done, "
            f"about {duration(self.left(share))} left"
        )

    def left(self, share: float) -> float:
        """Seconds, by plan at first, then by the speed of this start."""
        here = share - self._before
        if here < 0.1:
            return self._planned * (1 - share)
        return (time.monotonic() - self._began) * (1 - share) / here

    def _share(self, jobs) -> float:
        return sum(self._shares[job] for job in jobs) / sum(self._shares.values())


def last_line(log: Path, most: int = 4096) -> str:
    """Of a file that is being written; "" while there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
