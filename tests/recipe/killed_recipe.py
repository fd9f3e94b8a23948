"""A recipe that is killed at given moments and started again with the same command until it ends.

python tests/recipe/killed_recipe.py WORKDIR OTHER     compare the results.json of two workdirs
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.train.stop_signals import STOPPED

HERE = Path(__file__).parent
PROGRAMS = {
    "recipe": ("-m", "qwen3.cli", "recipe"),
    "recipe with made-up scores": (str(HERE / "nano.py"), "--made-up"),  # so that RL trains, too
    "waiting recipe": (str(HERE / "waiting_recipe.py"),),
    "first stages": (str(HERE / "first_stages.py"),),
}
# What depends on the clock or the place, not on the run; "command" names the workdir.
TIMES = {"seconds", "compiling", "wall", "elapsed", "date", "command"}
PATIENCE = 3000.0  # seconds for one moment to come, on a machine with much else to do


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two results differ, times excepted: "/seeds[0]/exam/accuracy[0]: 0.5, 0.6"."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other} - TIMES):
            yield from differences(one.get(key), other.get(key), f"{place}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif one != other or type(one) is not type(other):
        yield f"{place}: {str(one)[:60]}, {str(other)[:60]}"


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())


def assert_same_report(one: Path, other: Path) -> None:
    assert not list(differences(results(one), results(other)))
    for page in ("report.html", "report.md"):
        assert (one / page).stat().st_size and (other / page).stat().st_size


class Recipe:
    """One start of a recipe. What it imports is told in `told`, a file that is written anew."""

    def __init__(self, program: str, workdir: Path, *options: str, told: Path, **environment: str):
        quiet = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        command = [sys.executable, "-X", "importtime", *PROGRAMS[program]]
        command += ["--workdir", str(workdir), "--budget", "0", "--workers", "2", *options]
        self.workdir, self.told, self._ready = workdir, told, False
        self._is_command = program == "recipe"
        with told.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                env={**quiet, **environment},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def imported(self) -> int:
        """How many modules the command's own process has imported."""
        return self.told.read_bytes().count(b"import time:")

    def ready(self) -> bool:
        """Whether it answers signals: the command from its first line, the others in their run."""
        if self._is_command:  # and this is what it imports then
            self._ready = self._ready or b"qwen3.recipe.budgets" in self.told.read_bytes()
        elif (lock := self.workdir / "lock").exists():
            self._ready = lock.read_text().startswith(f"{self.process.pid} ")
        return self._ready

    def reports(self) -> bool:
        """Whether the report is being written, or was already by an earlier start."""
        names = ("report.html", "report.md", "results.json.new", "results.json")
        return any((self.workdir / name).exists() for name in names)

    def said(self) -> str:
        """What it wrote to stderr."""
        lines = self.told.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("import time:"))

    def workers(self) -> list[int]:
        """Processes at work, by id."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            children = [int(word) for word in file.read_text().split()]
            return [pid for pid in children if b"spawn_main" in _command(pid)]
        except OSError:
            return []

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


Moment = Callable[[Recipe], bool]


def importing(count: int) -> Moment:
    """So many modules are imported, or it is ready to run: about 1,500 are needed for that."""
    return lambda recipe: recipe.imported() >= count or bool(recipe.workers())


def at_work(seconds: float) -> Moment:
    """The workers have had so many seconds of processor time in this start."""
    return lambda recipe: sum(map(_processor_seconds, recipe.workers())) >= seconds


def between_stages() -> Moment:
    """A stage has ended in this start."""
    return _news("seed0/*/result.json")


def writing_a_checkpoint() -> Moment:
    """A checkpoint is being written in this start."""
    return _news("seed0/**/checkpoints/*.orbax-checkpoint-tmp/*")


def reporting() -> Moment:
    return lambda recipe: recipe.reports()


def _news(pattern: str) -> Moment:
    """A file of this pattern has come since this was first asked."""
    before: list[set[Path]] = []

    def moment(recipe: Recipe) -> bool:
        files = set(recipe.workdir.glob(pattern))
        before.append(files)
        return bool(files - before[0])

    return moment


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_all(recipe: Recipe) -> int:
    os.killpg(recipe.process.pid, signal.SIGKILL)
    return -signal.SIGKILL


def kill_parent(recipe: Recipe) -> int:
    recipe.process.kill()
    return -signal.SIGKILL


def kill_a_worker(recipe: Recipe) -> int:
    """As the kernel does where memory is short: the recipe fails, and tells of it."""
    for pid in recipe.workers():
        os.kill(pid, signal.SIGKILL)
        return 1
    return kill_parent(recipe)


def stop_parent(recipe: Recipe) -> int:
    recipe.process.terminate()
    return STOPPED


def stop_all(recipe: Recipe) -> int:
    os.killpg(recipe.process.pid, signal.SIGTERM)
    return STOPPED


Way = Callable[[Recipe], int]  # sends a signal; returns the exit code that is to follow
WAYS = (kill_all, kill_parent, kill_a_worker, stop_parent, stop_all)


def random_ways(seed: int) -> Iterator[Way]:
    rng = random.Random(seed)
    return iter(lambda: rng.choice(WAYS), None)


@dataclass(frozen=True)
class Kill:
    """What a kill met."""

    way: str
    moment: str
    code: int
    stages: int  # done by then
    seconds: float  # until the process was gone


def kills(
    program: str, workdir: Path, moments: dict[str, Moment], ways: Iterator[Way], told: Path
) -> list[Kill]:
    """Kill a recipe once at each moment, in the next of `ways`, then let it end."""
    met = []
    for name, moment in moments.items():
        recipe, way = Recipe(program, workdir, told=told), next(ways)
        deadline = time.monotonic() + PATIENCE
        while not recipe.ready() or not (moment(recipe) or recipe.reports()):
            assert recipe.process.poll() is None, f"ended before {name}: {recipe.said()}"
            assert time.monotonic() < deadline, f"{name} never came"
            time.sleep(0.005)
        began, wanted = time.monotonic(), way(recipe)
        code = recipe.wait()
        count = len(list(workdir.glob("seed0/*/result.json")))
        met.append(Kill(way.__name__, name, code, count, time.monotonic() - began))
        print(met[-1], flush=True)
        # It may have ended by itself in the moment of the signal, but only with its report.
        ended = code == 0 and (workdir / "results.json").exists()
        assert code == wanted or ended, (met[-1], recipe.said())
        assert "Traceback" not in recipe.said(), recipe.said()
    recipe = Recipe(program, workdir, told=told)
    assert recipe.wait() == 0, recipe.said()
    return met


def random_moments(count: int, seed: int) -> dict[str, Moment]:
    """`count` moments of a run; the last, and whatever comes too late, meets the report."""
    rng = random.Random(seed)
    moments: dict[str, Moment] = {}
    for number in range(count - 1):
        modules, seconds = rng.randrange(200, 1600), round(rng.uniform(0.2, 15), 1)
        name, moment = rng.choice(
            (
                (f"{modules} modules are imported", importing(modules)),
                (f"{seconds} s into the work", at_work(seconds)),
                (f"{seconds} s into the work", at_work(seconds)),
                ("a stage has ended", between_stages()),
                ("a checkpoint is written", writing_a_checkpoint()),
            )
        )
        moments[f"{number}: {name}"] = moment
    moments[f"{count - 1}: the report is written"] = reporting()
    return moments


if __name__ == "__main__":
    print(*differences(*(results(Path(path)) for path in sys.argv[1:3])), "compared", sep="\n")
