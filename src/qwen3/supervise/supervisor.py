"""Keep one process of a run alive on this host of a pod, and report to the bucket.

    python -m qwen3.supervise.supervisor

launch/worker.sh starts it with the settings of the run in the environment. The process finds
QWEN3_HOST_DIR, a folder of its host, and keeps two files there:

- heartbeat.json: {"step": n, "spent": {"compile": s, "restore": s, "save": s, "input": s,
  "step": s}}, rewritten after every step, and at least each minute in long phases between steps
  (rollouts, evaluation). `spent` adds up seconds of this process; no second is in two of them. The
  watchdog goes by the file's age.
- exit.json: {"error": "its first line", "where": "file.py:74 in step"}, if it ends by an exception.

It prints all stacks on SIGUSR2 and leaves with 0: done; 42: told to stop, and saved; 2: a wrong
setting. Any other end is judged by progress: attempts go on while new checkpoints come, and end
when the same cause comes twice without one, or after TRIES.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from etils import epath

from qwen3.supervise.environment import command, environment, secrets
from qwen3.supervise.first_error import CASCADE, first_error, hung_at
from qwen3.supervise.pod_settings import PodSettings

# Chips are let go of only seconds after the process that held them died.
HEALTH = """for _ in {1..20}; do
  lsof -t /dev/vfio/[0-9]* /dev/accel* 2> /dev/null || break
  sleep 3
done
rm -f /tmp/libtpu_lockfile
timeout 300 "$PYTHON" -m qwen3.supervise.health_check || exit 3
exec "$PYTHON" "$@"
"""
LOG_BYTES = 8_000_000  # the end of a log that is uploaded
EXIT_CODES = {"done": 0, "user": 0, "signal": 42, "preempted": 42}  # by reason to stop; others: 1


class Supervisor:
    """Attempts, one after another, until there is a reason to stop."""

    def __init__(self) -> None:
        self.name, self.folder = os.environ["QWEN3_NAME"], Path(os.environ["QWEN3_HOST_DIR"])
        self.bucket = epath.Path(os.environ["FOLDER"])
        self.stop, self.lock = "", threading.Lock()
        self.settings = settings = PodSettings.of(os.environ)
        self.program = command(settings)
        self.environment = {**os.environ, **environment(settings), **secrets(settings)}
        self.state: dict[str, Any] = {
            "host": self.name,
            "start": os.environ["START"],
            "checkpoint": 0,
        }
        signal.signal(signal.SIGTERM, self._told)
        threading.Thread(target=self._report_for_ever, daemon=True).start()

    def run(self) -> int:
        """The exit code of worker.sh."""
        self.report("supervise", state="waiting", attempt=0)
        newest, failures, previous, health = self.state["checkpoint"], 0, "", True
        while not self.stop:
            code = self.attempt(health)
            error, health = self.state["error"], code > 123 or code == 3
            failures = 0 if self.state["checkpoint"] > newest else failures + 1
            same = failures > 1 and error == previous and not CASCADE.search(error)
            if code in (0, 2):
                self.stop_everywhere("done" if code == 0 else f"host {self.name}: {error}")
            elif not self.stop and (same or failures >= self.settings.TRIES):
                self.stop_everywhere(
                    f"host {self.name}: {failures} attempts, no new checkpoint: {error}"
                )
            newest, previous = self.state["checkpoint"], error
            wait = time.monotonic() + min(2**failures, 300)
            while not self.stop and time.monotonic() < wait:
                time.sleep(0.2)
        words = {"user": "stopped", "done": "done", "signal": "left", "preempted": "preempted"}
        self.report("left", state=words.get(self.stop, "failed"), reason=self.stop)
        return EXIT_CODES.get(self.stop, 1)

    def attempt(self, health: bool) -> int:
        """Run the process to its end; 128 + n if signal n ended it."""
        for name in ("heartbeat.json", "exit.json"):
            (self.folder / name).unlink(missing_ok=True)
        number = self.state["attempt"] + 1
        fresh = {"error": "", "spent": {}, "hung": 0, "step": self.state["checkpoint"]}
        self.report("attempt", state="running", attempt=number, **fresh)
        if self.stop:
            return 42
        line = ["bash", "-c", HEALTH, "-"] if health else [os.environ["PYTHON"]]
        with self.log().open("wb") as log:
            # A session of its own, so that what the process started can be ended with it.
            child = subprocess.Popen(
                [*line, *self.program],
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        (self.folder / "child").write_text(str(child.pid))
        self.attend(child)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        self.report("end", state="waiting", code=code, error=self.error(code))
        return code

    def attend(self, child: subprocess.Popen[bytes]) -> None:
        """Until the process ends: pass on a reason to stop, end it when it is silent."""
        begun, asked, polled = time.time(), 0.0, 0.0
        while child.poll() is None:
            time.sleep(0.3)
            now = time.time()
            if now > polled + 5 and self.settings.BACKEND == "queued_resources":
                polled, self.stop = now, self.stop or preemption()
            if self.stop not in ("", "done") and not asked:
                asked = now
                child.terminate()
            if asked and now > asked + self.settings.STOP_SECONDS:
                os.killpg(child.pid, signal.SIGKILL)
            beat = self.last_beat()
            silent = now - max(beat, begun)
            settings = self.settings
            minutes = settings.HANG_MINUTES if beat > begun else settings.START_MINUTES
            if silent > 60 * minutes and not asked:
                self.state["hung"] = round(silent)
                child.send_signal(signal.SIGUSR2)
                time.sleep(5)
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def error(self, code: int) -> str:
        """One line on how the attempt ended: the program's words, the log's, or the exit code."""
        log, own = self.log().read_text(errors="replace"), read(self.folder / "exit.json")
        if code in (0, 42):
            return "told to stop, and saved" if code else ""
        if self.state["hung"]:
            return f"hung: no step for {self.state['hung']} s at {hung_at(log)}"
        if own:
            return f"{own['error']} ({own.get('where', '')})"
        last = f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
        return first_error(log) or last

    def stop_everywhere(self, reason: str) -> None:
        """Tell the supervisors of all hosts to stop, by a file in the bucket."""
        self.stop = self.stop or reason
        with contextlib.suppress(OSError):
            if not (self.bucket / "pod" / "stop").exists():
                self.put(self.bucket / "pod" / "stop", reason.encode())

    def report(self, event: str, **about: Any) -> None:
        """Note an event and exchange news with the bucket; one that does not answer is left."""
        self.state |= about
        thread = threading.Thread(target=self.exchange, args=(event,), daemon=True)
        thread.start()
        thread.join(120)

    def exchange(self, event: str = "") -> None:
        """Read the newest checkpoint and the reason to stop; upload state, events and log."""
        with self.lock:
            seals = (self.bucket / "work" / "checkpoints").glob("*/checkpoint.json")
            steps = [int(seal.parent.name) for seal in seals if seal.parent.name.isdigit()]
            stop = self.bucket / "pod" / "stop"
            self.stop = self.stop or (stop.read_text() if stop.exists() else "")
            self.state |= {**read(self.folder / "heartbeat.json"), "beat": self.last_beat()}
            self.state |= {"checkpoint": max(steps, default=0), "time": time.time()}
            if event:
                with (self.folder / "events.jsonl").open("a") as lines:
                    lines.write(json.dumps({**self.state, "event": event}) + "\n")
            folder = self.bucket / "pod" / os.environ["START"] / self.name
            self.put(folder / "state.json", json.dumps(self.state).encode())
            for file in (self.folder / "events.jsonl", self.log()):
                if file.exists():
                    self.put(folder / file.name, file.read_bytes()[-LOG_BYTES:])

    def put(self, path: epath.Path, content: bytes) -> None:
        """Write at once or not at all: object stores do so by themselves."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path if "://" in str(path) else path.with_name(f"{path.name}.{self.name}")
        new.write_bytes(content)
        if new != path:
            new.replace(path)

    def last_beat(self) -> float:
        """When the process last made progress: its heartbeat, or metrics in a local workdir."""
        files = self.folder / "heartbeat.json", Path(str(self.bucket / "work" / "metrics.jsonl"))
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

    def log(self) -> Path:
        """The log of the newest attempt."""
        return self.folder / f"attempt-{self.state.get('attempt', 0)}.log"

    def _report_for_ever(self) -> None:
        while True:
            time.sleep(self.settings.BEAT_SECONDS)
            try:
                self.exchange()
            except Exception as error:
                print(f"the bucket does not answer: {error}", flush=True)

    def _told(self, *_: object) -> None:
        told = self.folder / "stop"
        self.stop = self.stop or (told.read_text().strip() if told.exists() else "signal")


def read(file: Path) -> dict[str, Any]:
    """A JSON object; {} if it is not there, or half written."""
    try:
        value: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return value


def preemption() -> str:
    """ "preempted" if this machine, a TPU VM, is about to be taken away."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    for name, word in (("preempted", "TRUE"), ("maintenance-event", "TERMINATE")):
        request = urllib.request.Request(f"http://{server}/computeMetadata/v1/instance/{name}")
        request.add_header("Metadata-Flavor", "Google")
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
            if answer.read().decode().startswith(word):
                return "preempted"
    return ""


if __name__ == "__main__":
    sys.exit(Supervisor().run())
