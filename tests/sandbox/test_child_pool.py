"""Child processes: recycled, killed, replaced; no request waits longer than it says."""

import os
import signal
import sys
import time

import pytest

from qwen3.sandbox.child_pool import Child, ChildFailed, ChildPool

PYTHON = [sys.executable, "-I", "-S", "-c"]
ECHO = (
    "import sys, json, os\n"
    "for line in sys.stdin:\n"
    "    print(json.dumps([os.getpid(), json.loads(line)]), flush=True)\n"
)


def test_children_are_recycled_killed_and_replaced():
    pool = ChildPool([*PYTHON, ECHO], size=1, recycle=3)
    pids = [pool.ask(i, 20)[0] for i in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids[:6])
    pool.close()
    for code in ("import os; os._exit(3)", "print('no json', flush=True); input(); input()"):
        pool = ChildPool([*PYTHON, code], size=1)
        with pytest.raises(ChildFailed):
            pool.ask(1, 20)
        pool.close()
    pool = ChildPool([*PYTHON, "import time; time.sleep(99)"], size=1)
    with pytest.raises(ChildFailed, match="no answer in time"):
        pool.ask(1, 0.3)
    pool.close()


def test_a_child_that_died_idle_is_started_again_before_the_request():
    child = Child([*PYTHON, ECHO])
    first, _ = child.ask("a", 20)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    second, value = child.ask("b", 20)
    assert second != first and value == "b"
    child.stop()


def test_a_stopped_child_that_takes_no_question_fails_in_time():
    child = Child([*PYTHON, ECHO])
    pid, _ = child.ask("a", 20)
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(ChildFailed, match="does not read"):
        child.ask("x" * (8 << 20), 0.5)  # more than a pipe holds
    assert time.monotonic() - start < 10
    assert child.ask("b", 20)[1] == "b"
    child.stop()


def test_a_new_child_is_warmed_up_by_a_question_of_its_own_with_its_own_time():
    slow = "import time; time.sleep(1)\n" + ECHO
    child = Child([*PYTHON, slow], warm_up=("warm", 20.0))
    assert child.ask("a", 0.5)[1] == "a"
    child.stop()


ENDS = [
    ("input(); import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", True),
    ("input(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)", False),
    ("input(); import os; os._exit(3)", False),
]


@pytest.mark.parametrize("code, own", ENDS)
def test_a_failure_tells_how_the_child_ended(code, own):
    child = Child([*PYTHON, code])
    with pytest.raises(ChildFailed) as failure:
        child.ask("a", 20)
    assert failure.value.own_doing is own and failure.value.exit_code is not None


def test_a_failure_tells_the_processor_time_that_the_request_used():
    busy, idle = "input()\nwhile True: pass", "input()\nimport time; time.sleep(99)"
    spent = []
    for code in (busy, idle):
        child = Child([*PYTHON, code])
        with pytest.raises(ChildFailed) as failure:
            child.ask("a", 1.5)
        spent.append(failure.value.cpu_seconds)
    # On a loaded machine the busy child gets a part of its time only, the idle one needs none.
    assert spent[0] > 0.05 and spent[0] > 2 * spent[1]
