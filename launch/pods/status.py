"""How a run is doing, from what lies in the bucket: hosts, steps, where time and money went."""

import html
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pods import bucket
from pods.first_error import BAD_NODE, CASCADE
from pods.run_file import Run

Record = dict[str, Any]
# What the time goes to from an event to the next; an attempt's is split further.
AFTER = {"up": "waiting", "active": "set-up", "supervise": "set-up", "attempt": "attempt"}
AFTER |= {"end": "down", "left": "down", "lost": "down", "down": ""}
BADPUT = ("waiting", "set-up", "start", "compile", "restore", "save", "input", "lost steps", "down")
WIDTHS = {"host": 7, "state": 10, "attempt": 9, "step": 9, "heartbeat": 11, "code": 5, "error": 0}
STYLE = "body{font:15px system-ui;max-width:60rem;margin:2rem auto}pre{white-space:pre-wrap}"


class Status:
    """Of a run, from its folder in the bucket or a copy of it."""

    def __init__(self, run: Run, folder: Path, now: float) -> None:
        self.run, self.folder, self.now = run, folder, now
        self.events = self._records("pod/events/*.json")  # of the pod
        self.metrics = self._records("work/metrics.jsonl")
        starts = [event["time"] for event in self.events if event["event"] in ("run", "watch")]
        since = max(starts, default=0)
        reports = self._records("pod/*/*/state.json")
        # When anybody last reported; 0 if never.
        self.last_word = max((word["time"] for word in [*self.events, *reports]), default=0)
        self.hosts: dict[str, Record] = {}  # the newest word of every host since the last `run`
        for name in run.hosts:
            words = [word for word in reports if word["host"] == name]
            newest = max(words, key=lambda word: word["time"], default={"time": 0, "checkpoint": 0})
            if newest["time"] <= since:
                newest = {"state": "starting", "time": since, "checkpoint": newest["checkpoint"]}
            self.hosts[name] = newest
        states = {host["state"] for host in self.hosts.values()}
        # failed (one host is enough), done or stopped (all of them), or "" while it runs.
        self.ended = "".join(states) if states in ({"done"}, {"stopped"}) else ""
        self.ended = "failed" if "failed" in states else self.ended
        alive, limit = ("starting", "running", "waiting"), now - 5 * run.BEAT_SECONDS - 60
        # Hosts on which nobody looks after the run, and those whose process is silent.
        self.absent = [
            n
            for n, host in self.hosts.items()
            if host["state"] not in alive or host["time"] < limit
        ]
        self.hung = [name for name in self.hosts if self.silence(name) > 60 * run.HANG_MINUTES]
        self.hours, self.active = 0.0, 0.0  # hours that the pod was active, since when it is
        for event in [*self.events, {"event": "now", "time": now}]:
            if event["event"] == "active":
                self.active = self.active or event["time"]
            elif event["event"] in ("lost", "down", "now") and self.active:
                self.hours += (event["time"] - self.active) / 3600
                self.active = 0.0 if event["event"] != "now" else self.active
        self.limit = f"{run.MAX_HOURS:g} h are over" if 0 < run.MAX_HOURS < self.hours else ""
        if 0 < run.MAX_COST < run.dollars(self.hours):
            self.limit = f"MAX_COST=${run.MAX_COST:g} is spent"

    @classmethod
    def of(cls, run: Run) -> Self:
        """The status now, fetched from the bucket."""
        return cls(run, bucket.fetch(run), time.time())

    def silence(self, name: str) -> float:
        """Seconds since a running process made a step; 0 before its first."""
        beat = self.hosts[name].get("beat") if self.hosts[name]["state"] == "running" else 0
        return self.now - beat if beat else 0.0

    def seconds(self) -> Counter[str]:
        """By cause (BADPUT, or "useful") since the pod was first active, as its first host saw it.

        What lies between `down` and the next `up`, or after the run is done, is not counted.
        """
        first = self.run.hosts[0]
        timeline = [*self.events, *self._records(f"pod/*/{first}/events.jsonl")]
        timeline = [event for event in timeline if event["event"] in AFTER]
        timeline.sort(key=lambda event: event["time"])
        begun = itertools.dropwhile(lambda event: event["event"] != "active", timeline)
        seconds: Counter[str] = Counter()
        for event, following in itertools.pairwise([*begun, {"event": "", "time": self.now}]):
            cause, duration = AFTER[event["event"]], following["time"] - event["time"]
            if cause == "attempt":
                end = following if following["event"] == "end" else self.hosts[first]
                seconds.update(self._attempt(duration, event, end))
            elif cause and event.get("state") != "done":
                seconds[cause] += duration
        return seconds

    def _attempt(self, duration: float, begin: Record, end: Record) -> dict[str, float]:
        """Seconds of an attempt by cause; one that failed loses the steps after its checkpoint."""
        spent = dict(end.get("spent") or {})
        steps = max(0, end.get("step", 0) - begin["checkpoint"])
        usual = statistics.median([row.get("seconds", 0.0) for row in self.metrics] or [0.0])
        useful = min(spent.pop("step", steps * usual), duration)
        again = max(0, end.get("step", 0) - end["checkpoint"]) if end.get("code") else 0
        lost = useful * min(1.0, again / max(steps, 1))
        rest = max(0.0, duration - useful - sum(spent.values()))
        return {**spent, "useful": useful - lost, "lost steps": lost, "start": rest}

    def text(self) -> str:
        """A table of hosts, and what is said of the run as a whole."""
        run, last, seconds = self.run, (self.metrics or [{}])[-1], self.seconds()
        total = max(1e-9, sum(seconds.values()))
        rows = [dict(zip(WIDTHS, WIDTHS, strict=True))]
        for name, host in self.hosts.items():
            beat = f"{self.silence(name):.0f} s ago" if self.silence(name) else "-"
            rows.append({**host, "host": name, "heartbeat": beat})
            rows[-1]["error"] = (
                host["reason"] if host["state"] == "failed" else host.get("error", "")
            )
        lines = [
            "".join(f"{row.get(c, '-')!s:<{width}}" for c, width in WIDTHS.items()) for row in rows
        ]
        lost = ", ".join(f"{cause} {seconds[cause] / total:.1%}" for cause in BADPUT)
        cost = f"${run.dollars(self.hours):,.2f} at ${run.PRICE:g} a chip-hour, {run.PRICE_SOURCE}"
        lines += [
            f"newest checkpoint: {max(host['checkpoint'] for host in self.hosts.values())}",
            f"last record: step {last.get('step', 0)}, loss {last.get('loss', '-')}",
            f"tokens per second: {last.get('tokens_per_second', 0.0):,.0f}",
            f"goodput: {seconds['useful'] / total:.1%} of {total / 3600:.2f} h; {lost}",
            f"chip-hours: {self.hours * run.chips:,.2f}",
            f"cost so far: {cost if run.PRICE else 'unknown (no PRICE)'}",
        ]
        return "\n".join(lines)

    def page(self, title: str) -> str:
        """The text as one HTML page, with the loss as a curve."""
        points = [(row["step"], row["loss"]) for row in self.metrics if "loss" in row] or [(0, 0.0)]
        (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
        x, y = 900 / max(1, right - left), 240 / max(1e-9, high - low)
        line = " ".join(f"{(a - left) * x:.1f},{(high - b) * y:.1f}" for a, b in points)
        title, text = html.escape(title), html.escape(self.text())
        return (
            f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
            f"<h1>{title}</h1><pre>{text}</pre><h2>Loss</h2><svg viewBox='-4 -4 908 248'>"
            f'<polyline points="{line}" fill="none" stroke="#36c" stroke-width="2"/></svg>'
            f"<p>steps {left} to {right}, loss {low:.4g} to {high:.4g}\n"
        )

    def log(self, name: str) -> str:
        """The newest log of a host."""
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
        records = []
        for line in "\n".join(
            f.read_text() for f in sorted(self.folder.glob(pattern))
        ).splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records
