"""Run a program, kill it with signal 9 at chosen or random moments, start it again until done.

Any program serves that takes a workdir (as of `qwen3.train.workdir`) in its arguments and resumes
from it. Moments are functions (workdir) -> "is it now?", asked every millisecond.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qwen3.train.checkpoint import load_params, newest
from qwen3.train.checkpoint_folder import DOOMED, TEMPORARY

Moment = Callable[[Path], bool]


def while_writing() -> Moment:
    """A checkpoint is being written."""
    return lambda workdir: any(TEMPORARY in name for name in _checkpoints(workdir))


def while_deleting() -> Moment:
    """An old checkpoint is being deleted."""
    return lambda workdir: any(name.endswith(DOOMED) for name in _checkpoints(workdir))


def at_step(step: int) -> Moment:
    """Step `step` has just been recorded: a stage border, say."""
    return lambda workdir: last_step(workdir) >= step


def after(seconds: float) -> Moment:
    """So many seconds after the program made its first new step or checkpoint."""
    seen: dict[str, float | tuple] = {}

    def moment(workdir: Path) -> bool:
        now = (last_step(workdir), tuple(_checkpoints(workdir)))
        seen.setdefault("before", now)
        if now != seen["before"]:
            seen.setdefault("began", time.monotonic())
        return time.monotonic() - seen.get("began", float("inf")) >= seconds

    return moment


def random_moments(count: int, *, longest: float, border: int, seed: int) -> list[Moment]:
    """`count` moments: a third inside checkpoint writes, one at the border, the others anywhere."""
    rng = random.Random(seed)
    writes = [while_writing() for _ in range(count // 3)]
    others = [after(rng.uniform(0, longest)) for _ in range(count - 1 - len(writes))]
    moments = [*writes, *others]
    rng.shuffle(moments)
    moments.insert(rng.randrange(1, len(moments)), at_step(border))
    return moments


def run(
    command: Sequence[str], workdir: Path, moments: Sequence[Moment] = (), **options
) -> list[dict]:
    """Kill `command` once at each moment, then let it finish. Returns what each kill met.

    A moment that never comes before the program ends raises AssertionError. options: env (added
    to this process's), timeout (seconds for one start).
    """
    kills = []
    for moment in moments:
        process = _start(command, options.get("env"))
        deadline = time.monotonic() + options.get("timeout", 300)
        while not moment(workdir):
            if process.poll() is not None:
                raise AssertionError(f"ended ({process.returncode}) before kill {len(kills) + 1}")
            assert time.monotonic() < deadline, "the moment to kill never came"
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        names = _checkpoints(workdir)
        kills.append(
            {
                "step": last_step(workdir),
                "checkpoints": sorted(int(name) for name in names if name.isdigit()),
                "half_written": any(TEMPORARY in name for name in names),
            }
        )
    process = _start(command, options.get("env"))
    assert process.wait(options.get("timeout", 300)) == 0, f"{command} ended badly"
    return kills


def wait_for_step(workdir: Path, step: int, *processes: subprocess.Popen) -> None:
    """Until step `step` is recorded; AssertionError if a process ends before."""
    while last_step(workdir) < step:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)


def assert_same_run(one: Path, other: Path) -> None:
    """Final parameters bitwise equal, and the same metrics line for line (speed aside)."""
    assert newest(one).name == newest(other).name
    a, b = _flat(load_params(one)), _flat(load_params(other))
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert not different, f"other parameters: {different}"
    speed = ("seconds", "input_wait", "tokens_per_second", "mfu")
    records = [
        [{k: v for k, v in json.loads(line).items() if k not in speed} for line in lines]
        for lines in (metrics(one), metrics(other))
    ]
    assert records[0] == records[1]


def last_step(workdir: Path) -> int:
    for line in reversed(metrics(workdir)):
        try:
            return json.loads(line)["step"]
        except ValueError:  # torn by a kill
            continue
    return 0


def metrics(workdir: Path) -> list[str]:
    file = workdir / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def _checkpoints(workdir: Path) -> list[str]:
    directory = workdir / "checkpoints"
    return sorted(os.listdir(directory)) if directory.exists() else []


def _flat(tree: dict, path: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key in tree for k, v in _flat(tree[key], f"{path}.{key}").items()}


def _start(command: Sequence[str], env: dict | None) -> subprocess.Popen:
    # Its own group, so that workers of the program die with it.
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, start_new_session=True)
