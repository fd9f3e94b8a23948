"""Attacks, grouped by promise, at the level in force and as other users: none gets anywhere."""

import gc
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from attack_runs import (
    ENDS,
    QUICK,
    Trainer,
    forged,
    orphans,
    reached,
    stalled,
    too_much_memory,
)
from attacks_on_ends import MEMORY, ORPHANS, TIME
from attacks_on_reach import FILES, HEAD, NETWORK, REACH
from attacks_on_verdicts import FORGERIES, texts

from qwen3 import sandbox
from qwen3.rewards import TASKS, response
from qwen3.rewards.coding import problem
from qwen3.sandbox import runner
from qwen3.sandbox.runner import Sandbox

FOLDER = Path(__file__).parent / "attacks"
PYTHON = "/usr/bin/python3"  # an interpreter that every user may run
SOURCE = Path(runner.__file__).parents[2]

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="attacks name system calls by x86-64's numbers"
)


WORKSHOP = replace(QUICK, work_kb=8192)  # with a folder whose programs can be executed


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((QUICK, False), id="default"),
        pytest.param((WORKSHOP, False), id="with a work folder", marks=pytest.mark.slow),
        pytest.param((WORKSHOP, True), id="with its own proc", marks=pytest.mark.slow),
    ],
)
def box(request):
    limits, own_proc = request.param
    box = Sandbox(workers=1, limits=limits, own_proc=own_proc)
    if box.probe()["level"] != "namespaces":
        pytest.skip(f"no namespaces on this machine: {box.probe()['refused']}")
    yield box
    box.close()


@pytest.fixture(scope="module")
def trainer():
    trainer = Trainer()
    yield trainer
    trainer.close()


OF_ITS_OWN_PROC = {  # what attacks find there: files that the candidate has open anyway
    "open files of processes": ["/proc/self/fd/1", "/proc/self/fd/2"],
    "folders of the host": ["/proc"],
}


@pytest.mark.parametrize("programs", REACH.values(), ids=REACH)
def test_nothing_is_reached(box, trainer, programs):
    results = {name: reached(box, code, trainer.case) for name, code in programs.items()}
    allowed = OF_ITS_OWN_PROC if box.own_proc else {}
    assert results == {name: allowed.get(name, []) for name in programs}


def test_the_same_attacks_win_where_nothing_holds_them(trainer):
    """Else they would prove nothing. Those that change something are left out."""
    programs = {**FILES, **NETWORK}
    names = ("the absolute path", "a path of many dots", "folders of the host")
    names += ("dots from an open folder", "roots and folders of processes")
    names += ("an abstract socket of the trainer", "a named socket of the trainer", "the loopback")
    code = (
        "import json, sys\nrows = json.load(sys.stdin)\nprint(json.dumps([run(*r) for r in rows]))"
    )
    run = (
        "def run(code, case):\n    names = {}\n    exec(code, names)\n    return names['f'](case)\n"
    )
    rows = [(HEAD + programs[name], trainer.case) for name in names]
    free = subprocess.run(
        [sys.executable, "-c", run + code],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        check=True,
    )
    won = dict(zip(names, json.loads(free.stdout), strict=True))
    assert all(won.values()), won


DOUBLE = problem("Double it.", "double", [((x,), 2 * x) for x in range(20)], "")


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_no_program_that_does_not_double_passes(box, monkeypatch, code):
    monkeypatch.setattr(sandbox, "default", lambda: box)
    answer = f"```python\n{code}\n```"
    assert TASKS["coding"].score(DOUBLE, answer) == 0.0


def test_a_program_that_doubles_passes(box):
    assert forged(box, "def double(x): return 2 * x")


@pytest.mark.parametrize("code", ORPHANS.values(), ids=ORPHANS)
def test_nothing_outlives_its_job(box, code):
    assert orphans(box, code) == []


SHORT = ("a thread that never ends", "code of many brackets", "in each process")


def slow_but_for_a_few(names):
    """The names as parameters; a few in the default suite, for they take seconds."""
    marks = {name: () if name in SHORT else (pytest.mark.slow,) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


@slow_but_for_a_few(TIME)
def test_no_program_takes_more_than_its_time_or_a_second_of_the_trainers(box, name):
    assert stalled(box, TIME[name]) == []


@slow_but_for_a_few(MEMORY)
def test_no_program_holds_more_than_its_memory(box, name):
    assert too_much_memory(box, MEMORY[name]) == []


@pytest.mark.parametrize("name", texts())
def test_whatever_a_program_writes_is_read_within_a_second(name):
    output = texts()[name]
    start = time.thread_time()
    runner.read_calls(output, 20)
    assert time.thread_time() - start < 1.0


def run_as(level, *command):
    """What attack_runs.py prints, run by another user or with other rights."""
    version = [PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if os.geteuid() != 0 or not Path(PYTHON).exists() or subprocess.run(version).returncode:
        pytest.skip("needs root, and an interpreter that every user may run")
    path = os.pathsep.join([str(FOLDER), str(SOURCE)])
    run = subprocess.run(
        [*command, PYTHON, str(FOLDER / "attack_runs.py"), level],
        capture_output=True,
        text=True,
        timeout=1800,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/tmp",
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


USER = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
WITHOUT_CAPABILITIES = (
    *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    "--securebits=+noroot,+noroot_locked",
)


@pytest.mark.slow
def test_an_ordinary_users_candidates_reach_nothing_either():
    result = run_as("namespaces", *USER)
    assert result["won"] == {}
    assert result["level"] == "none" or result["count"] > 100


@pytest.mark.slow
def test_root_without_capabilities_is_refused_or_holds():
    result = run_as("namespaces", *WITHOUT_CAPABILITIES)
    assert result["won"] == {} and (result["level"] == "none") == (result["count"] == 0)


@pytest.mark.slow
@pytest.mark.parametrize("command", [(), USER], ids=["root", "user"])
def test_without_isolation_time_memory_end_and_verdicts_hold(command):
    result = run_as("rlimits", *command)
    assert result["won"] == {} and result["count"] == sum(len(rows) for rows, _ in ENDS.values())


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def score_hostile_answers(box, count):
    """Scores `count` answers: all families, programs, and outputs of programs."""
    from attacks_on_answers import hostile_answers

    rng, outputs = random.Random(0), list(texts().values())
    for number in range(count):
        task, problem, text = hostile_answers(rng)
        assert task.score(problem, text) is not None
        if number % 20 == 0:
            runner.read_calls(outputs[number // 20 % len(outputs)], 20)
        if number % 50 == 0:
            code = list(FORGERIES.values())[number // 50 % len(FORGERIES)]
            text = response.render("", f"```python\n{code}\n# {number}\n```")
            assert TASKS["coding"].score(DOUBLE, text) == 0.0


def growth(box, monkeypatch, count):
    monkeypatch.setattr(sandbox, "default", lambda: box)
    score_hostile_answers(box, 60)
    before = resident()
    score_hostile_answers(box, count)
    return (resident() - before) / 2**20


def test_hostile_answers_leave_nothing_in_the_trainers_memory(box, monkeypatch):
    assert growth(box, monkeypatch, 200) < 64


@pytest.mark.slow
def test_ten_thousand_hostile_answers_leave_nothing_in_the_trainers_memory(box, monkeypatch):
    megabytes = growth(box, monkeypatch, 10_000)
    print(f"the trainer grew by {megabytes:.1f} MB")
    assert megabytes < 64
