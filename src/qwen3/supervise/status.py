"""How a run is doing, from what lies in its folder: hosts, steps, checkpoints, time and money."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3.supervise.first_error import BAD_NODE, CASCADE
from qwen3.supervise.goodput import Record, seconds_by_cause
from qwen3.supervise.pod_settings import PodSettings


class Status:
    """The state of a run at a time, from its folder in the bucket or a copy of it."""

    def __init__(self, settings: PodSettings, folder: Path, now: float) -> None:
        self.settings, self.folder, self.now = settings, folder, now
        self.events = self._records("pod/events/*.json")  # of the pod
        self.metrics = self._records("work/metrics.jsonl")
        reports = self._records("pod/*/*/state.json")
        # When anybody last reported; 0 if never.
        self.last_word = max((word["time"] for word in [*self.events, *reports]), default=0)
        self.hosts = self._newest_words(reports)
        states = {host["state"] for host in self.hosts.values()}
        # failed (one host is enough), done or stopped (all of them), or "" while it runs.
        self.ended = "".join(states) if states in ({"done"}, {"stopped"}) else ""
        self.ended = "failed" if "failed" in states else self.ended
        alive, limit = ("starting", "running", "waiting"), now - 5 * settings.BEAT_SECONDS - 60
        # Hosts on which nobody looks after the run, and those whose process is silent.
        self.absent = [
            name
            for name, host in self.hosts.items()
            if host["state"] not in alive or host["time"] < limit
        ]
        hang = 60 * settings.HANG_MINUTES
        self.hung = [name for name in self.hosts if self.silence(name) > hang]
        # Hours that the pod was active, and since when it is now (0: it is not).
        self.hours, self.active = self._active_time()

    def _newest_words(self, reports: list[Record]) -> dict[str, Record]:
        """The newest report of every host (SLICE.HOST) since the run was last started."""
        starts = [event["time"] for event in self.events if event["event"] in ("run", "watch")]
        since = max(starts, default=0)
        newest = {}
        for name in self.settings.hosts:
            words = [report for report in reports if report["host"] == name]
            word = max(words, key=lambda word: word["time"], default={"time": 0, "checkpoint": 0})
            if word["time"] <= since:
                word = {"state": "starting", "time": since, "checkpoint": word["checkpoint"]}
            newest[name] = word
        return newest

    def _active_time(self) -> tuple[float, float]:
        hours, active = 0.0, 0.0
        for event in self.events:
            if event["event"] == "active":
                active = active or event["time"]
            elif event["event"] in ("lost", "down") and active:
                hours, active = hours + (event["time"] - active) / 3600, 0.0
        return hours + ((self.now - active) / 3600 if active else 0.0), active

    @property
    def chip_hours(self) -> float:
        return self.hours * self.settings.chips

    @property
    def dollars(self) -> float:
        """What was spent so far; 0 without a price."""
        return self.settings.dollars(self.hours)

    @property
    def limit(self) -> str:
        """Which limit the run has reached, or ""."""
        hours, cost = self.settings.MAX_HOURS, self.settings.MAX_COST
        if 0 < cost < self.dollars:
            return f"MAX_COST=${cost:g} is spent"
        return f"{hours:g} h are over" if 0 < hours < self.hours else ""

    @property
    def checkpoint(self) -> int:
        """The step of the newest checkpoint."""
        return max(host["checkpoint"] for host in self.hosts.values())

    def silence(self, name: str) -> float:
        """Seconds since a running process made a step; 0 before its first."""
        beat = self.hosts[name].get("beat") if self.hosts[name]["state"] == "running" else 0
        return self.now - beat if beat else 0.0

    @functools.cached_property
    def seconds(self) -> Counter[str]:
        """Seconds by cause, as the first host saw it; see goodput.py."""
        events = [*self.events, *self._records("pod/*/0.0/events.jsonl")]
        return seconds_by_cause(events, self.metrics, self.hosts["0.0"], self.now)

    def verdict(self) -> Record:
        """What launch/pod.py decides by."""
        names = ("ended", "limit", "absent", "hung", "active", "last_word")
        return {name: getattr(self, name) for name in names}

    def log(self, name: str) -> str:
        """The newest log of a host. Raises ValueError for a host that is none."""
        if name not in self.hosts:
            raise ValueError(f"there is no host {name!r}; hosts: {', '.join(self.hosts)}")
        host = self.hosts[name]
        file = self.folder / f"pod/{host.get('start')}/{name}/attempt-{host.get('attempt')}.log"
        return file.read_text() if file.exists() else f"host {name} has no log yet"

    def first_errors(self) -> Iterator[str]:
        """How the newest attempts ended, the first cause first, then what it set off elsewhere."""
        ends = [row for row in self._records("pod/*/*/events.jsonl") if row["event"] == "end"]
        last = max((row["time"] for row in ends if row["error"]), default=0)
        ends = [row for row in ends if row["error"] and row["time"] > last - 600]
        for row in sorted(ends, key=lambda row: (bool(CASCADE.search(row["error"])), row["time"])):
            clock = time.strftime("%H:%M:%S", time.gmtime(row["time"]))
            yield f"host {row['host']}, attempt {row['attempt']}, {clock} UTC: {row['error']}"
            if BAD_NODE.search(row["error"]):
                yield f"  host {row['host']} will not get well: down and up bring another machine"

    def _records(self, pattern: str) -> list[Record]:
        """JSON objects, one a line, of files; lines that are being written are left out."""
        records: list[Record] = []
        text = "\n".join(file.read_text() for file in sorted(self.folder.glob(pattern)))
        for line in text.splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records


def numbers(metrics: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of the records that have a value of that name."""
    return [(row["step"], row[name]) for row in metrics if name in row]
