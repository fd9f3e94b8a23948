"""Running untrusted code: `default().run(code, entry, inputs)` gives what the calls returned.

The work is done by wardens (warden.py): processes started by exec, one job at a time each.
Candidate code sees inputs and returns values; expected values stay here, where they are compared.

What the level "namespaces" promises of a candidate, all of it measured by `probe` at a real job:

* Files: it sees the interpreter and its library, read-only, and an empty /tmp of its own. No file
  of the host, no /proc, /sys or /dev, no environment, no open file but its own. What it writes to
  /tmp cannot be executed; with `work_kb` it starts in an empty /work of that size, where it can.
* Network: none, neither this machine's nor any other, and no socket family but unix and internet.
* Processes: it sees and signals its own only. It has an unprivileged uid of its own, no
  capabilities, and cannot gain any; it enters no namespace, and reads no key of the trainer.
* Time: `wall_s` bounds a job, `cpu_s` the processor time of each of its processes, `call_s` a call.
* Memory: `memory_mb` for each of at most `processes` processes, `tmp_kb` for files, no System V or
  POSIX shared memory. Where a control group can be made ("control_group" in the report), the whole
  job has memory_mb + tmp_kb + work_kb. Out of memory, the kernel ends candidates before all others.
* End: nothing of it outlives its job, nor the warden, nor the trainer.
* Answers: they are data, at most `output_kb`, read in linear time whatever they hold. A candidate
  cannot report another one's result.

Where any of this does not hold, the level is not reached and every run is refused, unless
`allow_unisolated` was given. The level "rlimits" keeps the limits on time and on the memory of a
process, the filter of system calls (no internet sockets, no shared memory, no tracing) and the end;
but a candidate reads the files of its user, sees all processes, and if the trainer is not root it
may stop the trainer, or read its memory where the kernel lets a user trace his own processes, and
so forge a result. Use it for code that you would also run by hand.

Not promised: protection against faults of the kernel, side channels of the processor, or a
candidate that slows other work on the same cores down.
"""

import hashlib
import json
import logging
import os
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from qwen3.sandbox import driver
from qwen3.sandbox.child_pool import ChildFailed, ChildPool
from qwen3.sandbox.isolation_probe import PROBE, shortcomings

log = logging.getLogger(__name__)

LEVELS = ("namespaces", "rlimits")
FLAG = "allow_unisolated"
WARDEN = Path(__file__).with_name("warden.py")
PROGRAM = Path(driver.__file__).read_text()
SLACK = 15.0  # seconds beyond a job's own limit before its warden counts as dead
ENTRY_BYTES = 300  # of a cached run, beside its output

Call: TypeAlias = tuple[str, Any]  # ("value", v) or ("error", name of the exception)
Job: TypeAlias = tuple[str, str, Sequence[tuple]]  # (code, entry, inputs)


class SandboxError(Exception):
    """The sandbox itself failed: nothing is known about the program that it was to run."""


class SandboxUnavailable(RuntimeError):
    """This machine does not isolate candidates, and the user has not allowed to go without."""


@dataclass(frozen=True)
class Limits:
    """Limits of one job."""

    memory_mb: int = 512  # address space of each process, MiB
    cpu_s: int = 10  # processor time of each process, seconds
    wall_s: float = 10.0  # time of the whole job, seconds
    call_s: float = 2.0  # time of one call, seconds
    processes: int = 8  # at a time, threads included
    files: int = 32  # open files of a process
    file_kb: int = 1024  # size of a file, KiB
    tmp_kb: int = 8192  # all files of /tmp, KiB
    work_kb: int = 0  # all files of /work, whose programs can be executed, KiB; 0 for no /work
    output_kb: int = 1024  # all answers, KiB


@dataclass(frozen=True)
class ProgramRun:
    """What a program did: how it ended, and what its calls gave as it wrote it down."""

    end: str  # "exit", or the limit that ended it: "time" or "output"
    output: str  # one JSON line a call, as the candidate's process wrote them: not trusted
    inputs: int  # calls that were asked for

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls' results, decoded anew at each access.

        There may be fewer than inputs: the program died, was killed, or wrote nonsense.
        """
        return read_calls(self.output, self.inputs)


class Sandbox:
    """A pool of wardens. Thread-safe; closes with the process.

    Args:
        workers: jobs at a time (default: cores - 1).
        limits: of each job.
        allow_unisolated: whether to run at the level "rlimits" where the other is not reached.
        cache_mb: memory for results of runs, MiB; the oldest leave first.
        folders: of this machine (compilers, say), which candidates may read beside Python's.
        own_proc: whether candidates see a read-only /proc of their own processes alone, which some
            virtual machines need.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        limits: Limits | None = None,
        allow_unisolated: bool = False,
        cache_mb: float = 64.0,
        folders: Sequence[str] = (),
        own_proc: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.workers = workers or max(1, (os.cpu_count() or 2) - 1)
        self.allow_unisolated = allow_unisolated
        self.folders = outermost([*folders_of_python(), *folders])
        self.own_proc = own_proc
        self._cache: OrderedDict[str, ProgramRun] = OrderedDict()
        self._cache_room = int(cache_mb * 2**20)  # bytes that are left
        self._lock = threading.Lock()
        self._pool: ChildPool | None = None
        self._report: dict[str, Any] | None = None

    def probe(self) -> dict[str, Any]:
        """What isolation a real job got, measured once: {"level", "network", "pid", ...}.

        Logged here; store it with the run. Level "none" means that nothing could be run at all;
        "refused" says why each level before the one in force was not reached.
        """
        with self._lock:
            if self._report is None:
                self._report = self._measure()
                log.info("sandbox: %s", json.dumps(self._report))
            return dict(self._report)

    def _measure(self) -> dict[str, Any]:
        notes: dict[str, str] = {}
        for level in LEVELS:
            pool = self._start(level)
            try:
                arguments = (self.limits.processes, self.folders, self.own_proc)
                result = self._exchange(pool, PROBE, "look", [arguments])
                ((kind, report),) = self._read(result, 1).calls
                if kind == "error":
                    raise SandboxError(f"the probe failed: {report}")
                report["control_group"] = result["group"]
                faults = shortcomings(report, self.limits.processes)
                if level == "rlimits" or not faults:
                    self._pool = pool
                    limits = asdict(self.limits)
                    return {"level": level, **report, "limits": limits, "refused": notes}
                notes[level] = f"not isolated: {', '.join(faults)}"
            except (SandboxError, ValueError, TypeError) as error:
                notes[level] = str(error)
            pool.close()
        return {"level": "none", "network": None, "refused": notes}

    def _start(self, level: str) -> ChildPool:
        hello = {
            "level": level,
            "python": os.path.realpath(sys.executable),
            "program": PROGRAM,
            "binds": self.folders,
            "own_proc": self.own_proc,
            "limits": asdict(self.limits),
            "number": 0,
        }
        argv = [sys.executable, "-I", "-S", str(WARDEN)]
        pool = ChildPool(argv, size=self.workers)
        for number, worker in enumerate(pool.children):
            # The candidate's uid outside of its namespace: apart from those of other trainers.
            worker.hello = {**hello, "number": (os.getpid() * 64 + number) % 4000}
        return pool

    def require(self) -> None:
        """SandboxUnavailable if code must not be run here."""
        report = self.probe()
        if report["level"] == "none":
            raise SandboxUnavailable(f"no code can be run on this machine: {report['refused']}")
        if report["level"] != "namespaces" and not self.allow_unisolated:
            raise SandboxUnavailable(
                "tasks that run code are off: this machine does not isolate candidates "
                f"({report['refused']}); pass {FLAG}=True (qwen3.sandbox.runner.configure) to run "
                "candidate code with resource limits only"
            )

    def run(
        self,
        code: str,
        entry: str,
        inputs: Sequence[tuple],
        *,
        preamble: str = "",
        stop_at_error: bool = False,
        cached: bool = True,
    ) -> ProgramRun:
        """Calls `entry` of `code` on each of `inputs`, tuples of plain values.

        Args:
            preamble: source that runs before the code, in the same module.
            stop_at_error: end at the first call that fails, so that a hanging one costs its time
                once.
            cached: whether a run of the same job is taken instead, and this one kept.

        Raises SandboxUnavailable, or SandboxError if the sandbox itself failed.
        """
        self.require()
        encoded = [driver.encode(tuple(args)) for args in inputs]
        job = json.dumps([preamble, code, entry, encoded, stop_at_error])
        name = hashlib.sha256(job.encode(errors="surrogatepass")).hexdigest()
        with self._lock:
            if cached and name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        assert self._pool is not None
        result = self._exchange(self._pool, code, entry, inputs, preamble, stop_at_error)
        run = self._read(result, len(inputs))
        # A run that hit the clock may have been unlucky; the others are the code's own doing.
        if cached and run.end != "time":
            self._keep(name, run)
        return run

    def _keep(self, name: str, run: ProgramRun) -> None:
        with self._lock:
            if name not in self._cache:
                self._cache[name] = run
                self._cache_room -= len(run.output) + ENTRY_BYTES
            while self._cache_room < 0:
                _, oldest = self._cache.popitem(last=False)
                self._cache_room += len(oldest.output) + ENTRY_BYTES

    def run_many(self, jobs: Iterable[Job], **options: Any) -> list[ProgramRun | SandboxError]:
        """The ProgramRun of each job, or its SandboxError, in order; `workers` run at a time.

        options: as of `run`.
        """

        def attempt(job: Job) -> ProgramRun | SandboxError:
            try:
                return self.run(*job, **options)
            except SandboxError as error:
                return error

        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(attempt, jobs))

    def _exchange(
        self,
        pool: ChildPool,
        code: str,
        entry: str,
        inputs: Sequence[tuple],
        preamble: str = "",
        stop_at_error: bool = False,
    ) -> dict[str, Any]:
        """The warden's report of a job; SandboxError if it failed or another one wrote it."""
        payload = json.dumps(
            {
                "preamble": preamble,
                "code": code,
                "entry": entry,
                "seconds": self.limits.call_s,
                "inputs": [driver.encode(tuple(args)) for args in inputs],
                "stop_at_error": stop_at_error,
            }
        )
        nonce, seconds = secrets.token_hex(16), self.limits.wall_s
        request = {"payload": payload, "seconds": seconds, "nonce": nonce}
        with pool.lend() as worker:
            try:
                result = worker.ask(request, seconds + SLACK)
            except ChildFailed as error:
                raise SandboxError(f"the sandbox server failed: {error}") from error
            if not isinstance(result, dict) or result.get("nonce") != nonce:
                worker.stop()  # lines of its pipe may be out of step
                raise SandboxError("the sandbox server's answer is not its own")
            return result

    def _read(self, result: dict[str, Any], inputs: int) -> ProgramRun:
        """The run that a warden reports; SandboxError if the candidate never began."""
        if result["end"] == "setup":
            raise SandboxError(f"the sandbox could not be set up: {result['note']}")
        first, _, lines = result["output"].partition("\n")
        if first != json.dumps(driver.READY):
            raise SandboxError(f"the sandbox ended before the candidate began: {result['end']}")
        return ProgramRun(result["end"], lines, inputs)

    def close(self) -> None:
        """Ends the wardens, and with them all that they run."""
        if self._pool is not None:
            self._pool.close()


def read_calls(output: str, most: int) -> tuple[Call, ...]:
    """The calls in a candidate's output, up to the first line that is not the next call.

    The text is hostile: numbers are short in it (long ones are hexadecimal texts), so that reading
    is linear in its length.
    """
    calls: list[Call] = []
    for line in output.split("\n")[:most]:
        try:
            record = json.loads(line, parse_int=_short_integer, parse_float=_refused)
            if record["i"] != len(calls):
                break
            if "value" in record:
                calls.append(("value", driver.decode(record["value"])))
            else:
                calls.append(("error", str(record["error"])[:80]))
        except (ValueError, KeyError, TypeError, RecursionError):
            break
    return tuple(calls)


def _short_integer(text: str) -> int:
    if len(text) > 9:
        raise ValueError("a long number")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no index")


def folders_of_python() -> list[str]:
    """Folders that the interpreter needs: its own library and the system's shared libraries."""
    base, binary = sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))
    return outermost(["/lib", "/lib64", "/usr/lib", "/usr/lib64", f"{base}/lib", binary])


def outermost(paths: Iterable[str]) -> list[str]:
    """The folders among `paths` that exist, without those that lie below an earlier one."""
    folders: list[str] = []
    for path in filter(os.path.isdir, paths):
        if not any((path + "/").startswith(other + "/") for other in folders):
            folders.append(path)
    return folders


@cache
def _holder() -> dict[str, Sandbox]:
    return {"sandbox": Sandbox()}


def default() -> Sandbox:
    """The sandbox that the code families use."""
    return _holder()["sandbox"]


def configure(**options: Any) -> Sandbox:
    """Replaces the default sandbox: configure(allow_unisolated=True, workers=4, limits=...)."""
    _holder()["sandbox"].close()
    _holder()["sandbox"] = Sandbox(**options)
    return default()
