"""Runs the attacks against a sandbox and says which of them got anywhere.

As a program (`python attack_runs.py LEVEL`) it does so as whichever user started it, with the
standard library alone, and prints {"level", "count", "refused", "won": {attack: what it reached}}.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from attacks_on_ends import MEMORY, ORPHANS, TIME
from attacks_on_reach import HEAD, REACH
from attacks_on_verdicts import FORGERIES

from qwen3.sandbox import runner
from qwen3.sandbox.cgroups import PREFIX
from qwen3.sandbox.runner import Limits, Sandbox

QUICK = Limits(wall_s=4.0, call_s=1.0, cpu_s=2, memory_mb=96, processes=8)
GRACE = 20.0  # seconds beyond wall_s, on a machine that is loaded
DOUBLES = tuple(("value", 2 * x) for x in range(20))


class Trainer:
    """What attacks want to reach: a secret, a folder, sockets and a process."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="trainer-")
        path = Path(self.folder.name)
        (path / "secret").write_text("SECRET")
        (path / "outside").mkdir(mode=0o777)
        os.chmod(path, 0o755)
        os.chmod(path / "outside", 0o777)
        name = f"qwen3-attack-{os.getpid()}"
        self.sockets = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        self.sockets.append(socket.create_server(("127.0.0.1", 0)))
        for listener, address in zip(
            self.sockets, ("\0" + name, str(path / "socket")), strict=False
        ):
            listener.bind(address)
            listener.listen()
        self.case = {
            "secret": str(path / "secret"),
            "outside": str(path / "outside"),
            "abstract": name,
            "socket": str(path / "socket"),
            "port": self.sockets[2].getsockname()[1],
            "trainer": os.getpid(),
        }

    def close(self):
        for listener in self.sockets:
            listener.close()
        self.folder.cleanup()


def reached(box, code, case):
    """What an attack reports; [] if it reached nothing, or died of trying."""
    calls = box.run(HEAD + code, "f", [(case,)], cached=False).calls
    return calls[0][1] if calls and calls[0][0] == "value" else []


def forged(box, code):
    """Whether a program that does not double passes for one that does."""
    return box.run(code, "double", [(x,) for x in range(20)], cached=False).calls == DOUBLES


def below(root):
    """Numbers of the processes below `root` that have not ended."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(name)] = int(fields[1])
    grown, family = True, {root}
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family, grown = family | more, bool(more)
    return family - {root}


def wardens(box):
    return [child.process.pid for child in box._pool.children if child.process]


def orphans(box, code):
    """What a program leaves running when its job is over."""
    box.run(code, "f", [(None,)], cached=False)
    end = time.monotonic() + 5
    while left := {pid for warden in wardens(box) for pid in below(warden)}:
        if time.monotonic() > end:
            return sorted(left)
        time.sleep(0.02)
    return []


def stalled(box, code):
    """Seconds by which a job exceeds its bounds: wall time with GRACE, 1 s of our processor."""
    wall, own = time.monotonic(), time.process_time()
    box.run(code, "f", [(0,)], cached=False).calls  # noqa: B018 - reading the answers is the test
    over = [time.monotonic() - wall - QUICK.wall_s - GRACE, time.process_time() - own - 1.0]
    return [round(seconds, 2) for seconds in over if seconds > 0]


class MemoryWatch(threading.Thread):
    """Samples, from outside, the memory of all below a sandbox: bytes at the most."""

    def __init__(self, box):
        super().__init__(daemon=True)
        self.roots, self.peak, self.group_peak = wardens(box), 0, 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            family = {pid for root in self.roots for pid in below(root)}
            self.peak = max(self.peak, sum(map(proportional_bytes, family)))
            self.group_peak = max(self.group_peak, group_bytes(self.roots))


def proportional_bytes(pid):
    """Bytes of a process in memory, what it shares in equal parts; 0 where none may look."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, ValueError):
        return 0


def group_bytes(roots):
    """The most bytes that a control group of these wardens has held, kernel's memory included."""
    for root in roots:
        for folder in Path("/sys/fs/cgroup").glob(f"**/{PREFIX}{root}-*"):
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                try:
                    return int((folder / name).read_text())
                except (OSError, ValueError):
                    continue
    return 0


def memory(box, code):
    """(bytes in processes, bytes in the control group) at the most while a program runs."""
    watch = MemoryWatch(box)
    watch.start()
    box.run(code, "f", [(None,)], cached=False)
    watch.over.set()
    watch.join()
    return watch.peak, watch.group_peak


def too_much_memory(box, code):
    """Megabytes held beyond the limit of the level in force."""
    peak, group = memory(box, code)
    files = (box.limits.tmp_kb + box.limits.work_kb) << 10
    job = (QUICK.memory_mb << 20) + files + (16 << 20)
    most = job if box.probe()["control_group"] else (QUICK.memory_mb << 20) * QUICK.processes
    # Of the interpreter's own pages, which all share, a part is counted to each.
    over = [peak - most - (32 << 20), group - job - (1 << 20)]
    return [f"{bytes_ >> 20} MB" for bytes_ in over if bytes_ > 0]


ENDS = {
    "nothing outlives its job": (ORPHANS, orphans),
    "time is bounded, the trainer's too": (TIME, stalled),
    "memory is bounded": (MEMORY, too_much_memory),
    "no pass is forged": (FORGERIES, forged),
}


def attack_all(box):
    """{"promise: attack": what it reached} of all attacks that got anywhere, and their number."""
    won, count, trainer = {}, 0, Trainer()
    for promise, programs in REACH.items() if box.probe()["level"] == "namespaces" else ():
        for name, code in programs.items():
            won[f"{promise}: {name}"] = reached(box, code, trainer.case)
    for promise, (programs, measure) in ENDS.items():
        for name, code in programs.items():
            won[f"{promise}: {name}"] = measure(box, code)
    trainer.close()
    count = len(won)
    return {name: result for name, result in won.items() if result}, count


def main(level):
    runner.LEVELS = (level,)
    box = Sandbox(workers=1, limits=QUICK, allow_unisolated=level == "rlimits")
    report = box.probe()
    result = {"level": report["level"], "refused": report["refused"], "won": {}, "count": 0}
    if report["level"] != "none":
        result["won"], result["count"] = attack_all(box)
    box.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
