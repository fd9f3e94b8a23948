"""Running untrusted code: `default().run(code, entry, inputs)` returns what the calls returned.

The work is done by wardens (warden.py): processes started by exec, one job at a time each.
Candidate code sees inputs and returns values; expected values stay here, where they are compared.
Fails closed: without network isolation every run is refused, unless `allow_unisolated` was given.
"""

import hashlib
import json
import logging
import os
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from qwen3.sandbox import driver
from qwen3.sandbox.child_pool import ChildFailed, ChildPool

log = logging.getLogger(__name__)

LEVELS = ("namespaces", "rlimits")
FLAG = "allow_unisolated"
WARDEN = Path(__file__).with_name("warden.py")
PROGRAM = Path(driver.__file__).read_text()
SLACK = 15.0  # seconds beyond a job's own limit before its warden counts as dead


class SandboxError(Exception):
    """The sandbox itself failed: nothing is known about the program that it was to run."""


class SandboxUnavailable(RuntimeError):
    """This machine offers no network isolation and the user has not allowed to go without."""


@dataclass(frozen=True)
class Limits:
    """Of one job. Memory is per process: the worst case is memory_mb * processes + tmp_kb."""

    memory_mb: int = 512
    cpu_s: int = 10
    wall_s: float = 10.0
    call_s: float = 2.0
    processes: int = 8
    files: int = 32
    file_kb: int = 1024
    tmp_kb: int = 8192
    output_kb: int = 1024


@dataclass(frozen=True)
class ProgramRun:
    """end: "exit", "time" or "output" (the limit); calls: ("value", v) or ("error", name) each.

    There may be fewer calls than inputs: the program died or was killed.
    """

    end: str
    calls: tuple


PROBE = """
import os, socket

def reach():
    '''Whether a packet can leave: a route to anywhere is enough.'''
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as s:
                s.connect((address, 9))
                return True
        except OSError:
            pass
    return False

def writes(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False

def look():
    home = os.path.expanduser("~root")
    return {"network": reach(), "pid": os.getpid(), "uid": os.getuid(),
            "sees": [p for p in ("/proc", "/sys", "/home", "/etc", "/dev") if os.path.exists(p)],
            "writes": [p for p in ("/x", "/usr/lib/x", "/etc/x") if writes(p)],
            "environment": sorted(os.environ)}
"""


class Sandbox:
    """A pool of wardens. Thread-safe; closes with the process.

    workers: jobs at a time (default: cores - 1). allow_unisolated: run with rlimits alone where
    namespaces are refused: then candidate code reaches the network and the host's files.
    """

    def __init__(self, *, workers=None, limits=None, allow_unisolated=False, cache_size=10_000):
        self.limits = limits or Limits()
        self.workers = workers or max(1, (os.cpu_count() or 2) - 1)
        self.allow_unisolated = allow_unisolated
        self._cache, self._cache_size = OrderedDict(), cache_size
        self._lock = threading.Lock()
        self._pool, self._report = None, None

    def probe(self):
        """What isolation a real job got, measured once: {"level", "network", "pid", ...}.

        Logged here; store it with the run. Level "none" means that nothing could be run at all.
        """
        with self._lock:
            if self._report is None:
                self._report = self._measure()
                log.info("sandbox: %s", json.dumps(self._report))
            return dict(self._report)

    def _measure(self):
        notes = {}
        for level in LEVELS:
            pool = self._start(level)
            try:
                run = self._ask(pool, PROBE, "look", [()], self.limits)
                ((_, seen),) = run.calls
                open_to = seen["network"], seen["pid"] > 9, seen["writes"], seen["sees"]
                isolated = level == "namespaces" and not any(open_to)
                if isolated or level == "rlimits":
                    self._pool = pool
                    return {"level": level, **seen, "limits": asdict(self.limits), "refused": notes}
                notes[level] = f"not isolated: {seen}"
            except (SandboxError, ValueError, TypeError) as error:
                notes[level] = str(error)
            pool.close()
        return {"level": "none", "network": None, "refused": notes}

    def _start(self, level):
        hello = {
            "level": level,
            "python": os.path.realpath(sys.executable),
            "program": PROGRAM,
            "binds": folders_of_python(),
            "limits": asdict(self.limits),
            "number": 0,
        }
        argv = [sys.executable, "-I", "-S", str(WARDEN)]
        pool = ChildPool(argv, size=self.workers)
        for number, worker in enumerate(pool.children):
            worker.hello = {**hello, "number": (os.getpid() * 64 + number) % 4000}
        return pool

    def require(self):
        """SandboxUnavailable if code must not be run here."""
        report = self.probe()
        if report["level"] == "none":
            raise SandboxUnavailable(f"no code can be run on this machine: {report['refused']}")
        if report["level"] != "namespaces" and not self.allow_unisolated:
            raise SandboxUnavailable(
                "tasks that run code are off: this machine gives no network isolation "
                f"({report['refused']}); pass {FLAG}=True (qwen3.sandbox.runner.configure) to run "
                "candidate code with resource limits only"
            )

    def run(self, code, entry, inputs, *, cached=True):
        """Calls `entry` of `code` on each of `inputs` (tuples of plain values); returns a Run.

        Raises SandboxUnavailable, or SandboxError if the sandbox itself failed.
        """
        self.require()
        job = json.dumps([code, entry, [driver.encode(tuple(args)) for args in inputs]])
        name = hashlib.sha256(job.encode()).hexdigest()
        with self._lock:
            if cached and name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        run = self._ask(self._pool, code, entry, inputs, self.limits)
        # A run that hit the clock may have been unlucky; the others are the code's own doing.
        if cached and run.end != "time":
            with self._lock:
                self._cache[name] = run
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        return run

    def run_many(self, jobs):
        """The ProgramRun of each job, or its SandboxError, in order; `workers` run at a time."""

        def one(job):
            try:
                return self.run(*job)
            except SandboxError as error:
                return error

        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(one, jobs))

    def _ask(self, pool, code, entry, inputs, limits):
        payload = json.dumps(
            {
                "code": code,
                "entry": entry,
                "seconds": limits.call_s,
                "inputs": [driver.encode(tuple(args)) for args in inputs],
            }
        )
        request = {"payload": payload, "seconds": limits.wall_s}
        try:
            result = pool.ask(request, limits.wall_s + SLACK)
        except ChildFailed as error:
            raise SandboxError(f"the sandbox server failed: {error}") from error
        if result["end"] == "setup":
            raise SandboxError(f"the sandbox could not be set up: {result['note']}")
        first, _, lines = result["output"].partition("\n")
        if first != json.dumps(driver.READY):
            raise SandboxError(f"the sandbox ended before the candidate began: {result['end']}")
        return ProgramRun(result["end"], read_calls(lines, len(inputs)))

    def close(self):
        if self._pool is not None:
            self._pool.close()


def read_calls(output, most):
    """The calls in a candidate's output, up to the first line that is not the next call."""
    calls = []
    for line in output.split("\n")[:most]:
        try:
            record = json.loads(line)
            if record["i"] != len(calls):
                break
            if "value" in record:
                calls.append(("value", driver.decode(record["value"])))
            else:
                calls.append(("error", str(record["error"])[:80]))
        except (ValueError, KeyError, TypeError, RecursionError):
            break
    return tuple(calls)


def folders_of_python():
    """What the interpreter needs to see: its own library and the system's shared libraries."""
    base, binary = sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))
    wanted = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{base}/lib", binary]
    found = []
    for path in (p for p in wanted if os.path.isdir(p)):
        if not any((path + "/").startswith(other + "/") for other in found):
            found.append(path)
    return found


@cache
def _holder():
    return {"sandbox": Sandbox()}


def default():
    """The sandbox that the code families use."""
    return _holder()["sandbox"]


def configure(**options):
    """Replaces the default sandbox: configure(allow_unisolated=True, workers=4, limits=...)."""
    _holder()["sandbox"].close()
    _holder()["sandbox"] = Sandbox(**options)
    return default()
