"""The escape list: nothing gets out of the sandbox, stays behind, or forges a pass."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from qwen3 import sandbox
from qwen3.rewards import TASKS
from qwen3.rewards.coding import problem
from qwen3.sandbox import runner
from qwen3.sandbox.runner import Limits, Sandbox, SandboxError, SandboxUnavailable

QUICK = Limits(wall_s=2.0, call_s=0.5, cpu_s=2)


def relatives(root):
    """Processes below `root`, by pid: all that a sandbox of this test may still have running."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(pid)] = int(fields[1])
    below, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below, grown = below | more, bool(more)
    return below - {root}


def candidates():
    """Pids of running candidate programs, wherever they hang in the tree."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if runner.PROGRAM[:80].encode() in line:
            found.add(int(pid))
    return found


@pytest.fixture(scope="module")
def box():
    box = Sandbox(workers=2, limits=QUICK)
    if box.probe()["level"] != "namespaces":
        pytest.skip(f"no namespaces on this machine: {box.probe()['refused']}")
    yield box
    wardens = [child.process.pid for child in box._pool.children if child.process]
    assert not [pid for warden in wardens for pid in relatives(warden)], "orphans"
    box.close()


def run(box, code, inputs=((),), entry="f"):
    before = time.monotonic()
    result = box.run(textwrap.dedent(code), entry, list(inputs), cached=False)
    assert time.monotonic() - before < QUICK.wall_s + 8
    return result


def test_the_level_reached_is_measured_and_reported(box):
    report = box.probe()
    assert report["network"] is False and report["pid"] < 10 and report["uid"] != 0
    assert report["sees"] == report["writes"] == []
    assert report["limits"]["memory_mb"] == 512


def test_values_come_back_with_their_types(box):
    code = "def f(x):\n    return (x, [1.5, None], {'k': {3}}, b'z', -0.0, 2**80, float('inf'))"
    value = run(box, code, [("é",)]).calls[0][1]
    assert value == ("é", [1.5, None], {"k": {3}}, b"z", -0.0, 2**80, float("inf"))
    assert type(value) is tuple and str(value[4]) == "-0.0"


def test_errors_of_one_call_leave_the_others(box):
    calls = run(box, "def f(x):\n    return 1 // x", [(1,), (0,), (1,)]).calls
    assert calls == (("value", 1), ("error", "ZeroDivisionError"), ("value", 1))


ESCAPES = {
    "fork bomb": """
        import os
        def f():
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
    """,
    "sleep with signals blocked": """
        import signal, time
        def f():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(1000)
    """,
    "SIGTERM and SIGALRM ignored": """
        import signal
        for s in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP):
            signal.signal(s, signal.SIG_IGN)
        def f():
            while True:
                pass
    """,
}


@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES)
def test_what_will_not_stop_is_stopped(box, code):
    result = run(box, code)
    assert result.end == "time" or result.calls != (("value", None),)
    assert not candidates_of(box)


def candidates_of(box):
    """Running candidates of this box after a moment's grace for the kernel's bookkeeping."""
    for _ in range(50):
        wardens = [child.process.pid for child in box._pool.children if child.process]
        left = {pid for warden in wardens for pid in relatives(warden)}
        if not left:
            return left
        time.sleep(0.02)
    return left


def test_a_sleep_past_the_limit_fails_its_call_only(box):
    code = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    calls = run(box, code, [(0,), (30,), (0,)]).calls
    assert calls == (("value", 0), ("error", "TimeoutError"), ("value", 0))


def test_ten_gigabytes_are_refused(box):
    code = "def f():\n    return len(bytearray(10 << 30))"
    assert run(box, code).calls == (("error", "MemoryError"),)


def test_infinite_output_is_cut_off(box):
    code = """
        import os
        def f():
            while True:
                for fd in range(3, 10):
                    try:
                        os.write(fd, b"x" * 65536)
                    except OSError:
                        pass
    """
    result = run(box, code)
    assert result.end == "output" and not result.calls
    assert run(box, "def f():\n    while True: print('x' * 65536)").calls == (
        ("error", "TimeoutError"),
    )
    assert run(box, "def f():\n    return 'x' * (8 << 20)").end == "output"


def test_no_socket_reaches_this_machine_or_any_other(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = """
            import socket
            def f(host, port):
                try:
                    socket.create_connection((host, port), timeout=0.3)
                    return "connected"
                except OSError:
                    return "refused"
        """
        port = server.getsockname()[1]
        calls = run(box, code, [("127.0.0.1", port), ("192.0.2.1", 80), ("::1", port)]).calls
    assert calls == (("value", "refused"),) * 3


def test_no_process_but_its_own_is_visible(box):
    code = """
        import os
        def f(path):
            try:
                return open(path, "rb").read(10)
            except OSError as error:
                return type(error).__name__
        def kill():
            told = []
            for pid in (1, os.getppid(), OUTSIDER):
                try:
                    os.kill(pid, 9)
                    told.append("sent")
                except OSError as error:
                    told.append(type(error).__name__)
            return told
    """.replace("OUTSIDER", str(os.getpid()))
    paths = ["/proc/1/environ", "/proc/self/environ", "/etc/passwd", __file__, sys.executable]
    calls = run(box, code, [(path,) for path in paths]).calls
    assert calls == (("value", "FileNotFoundError"),) * len(paths)
    names = (
        "import os\ndef f():\n    return list(os.environ)"  # the interpreter sets LC_CTYPE itself
    )
    assert run(box, names).calls == (("value", ["LC_CTYPE"]),)
    killed = run(box, code, entry="kill").calls
    assert not killed or killed[0][1][-1] == "ProcessLookupError"


def test_nothing_outside_its_own_folder_is_writable(box, tmp_path):
    code = """
        import os
        def f(path):
            try:
                with open(path, "w") as file:
                    file.write("x")
                return "written"
            except OSError:
                return "refused"
    """
    outside = [str(tmp_path / "x"), "/x", "/etc/x", "/usr/lib/x", f"{sys.base_prefix}/lib/x"]
    calls = run(box, code, [(path,) for path in [*outside, "/tmp/escaped"]]).calls
    assert calls == (("value", "refused"),) * len(outside) + (("value", "written"),)
    assert not any(os.path.exists(path) for path in outside) and not os.path.exists("/tmp/escaped")
    filled = "def f():\n    with open('/tmp/y', 'wb') as f:\n        f.write(bytes(64 << 20))"
    assert run(box, filled).calls in ((), (("error", "OSError"),))
    fresh = "import os\ndef f():\n    return os.listdir('/tmp')"
    assert run(box, fresh).calls == (("value", []),)


def test_it_inherits_no_file_but_its_own_three(box):
    code = """
        import os
        def f():
            found = []
            for fd in range(1024):
                try:
                    os.fstat(fd)
                    found.append(fd)
                except OSError:
                    pass
            return found
    """
    assert run(box, code).calls == (("value", [0, 1, 2, 3]),)  # 3: the copy of 1 for answers


def test_it_gains_no_privilege(box):
    code = """
        import ctypes, os
        def f():
            libc = ctypes.CDLL(None)
            tried = [libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None), libc.setuid(0),
                     libc.chroot(b"/tmp"), libc.unshare(0x40000000), libc.sethostname(b"x", 1)]
            return tried, os.getuid() != 0
    """
    assert run(box, code).calls == (("value", ([-1] * 5, True)),)


def test_a_double_fork_does_not_outlive_the_job(box):
    code = """
        import os, time
        def f():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    for fd in range(64):
                        try:
                            os.close(fd)
                        except OSError:
                            pass
                    time.sleep(1000)
                os._exit(0)
            os.wait()
            return "parent"
    """
    assert run(box, code).calls[0] == ("value", "parent")
    assert not candidates_of(box)


def test_deep_recursion_costs_one_call_or_the_run(box):
    code = "def f(x):\n    return f(x)"
    assert run(box, code, [(1,)]).calls == (("error", "RecursionError"),)
    crash = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    return f([x])"
    result = run(box, crash, [(1,)])
    assert [kind for kind, _ in result.calls] in ([], ["error"])
    nested = "def f():\n    x = []\n    for _ in range(100000):\n        x = [x]\n    return x"
    assert run(box, nested).calls == (("error", "ValueError"),)


DOUBLE = problem("Double it.", "double", [((x,), 2 * x) for x in range(20)], "")
FORGERIES = {
    "== is always true": """
        class Same:
            def __eq__(self, other): return True
            def __hash__(self): return 0
        def double(x): return Same()
    """,
    "an int whose == is always true": """
        class Same(int):
            def __eq__(self, other): return True
        def double(x): return Same(-1)
    """,
    "exit code 0": "import sys\nsys.exit(0)",
    "the exit code of a failed setup": "import os\nos._exit(97)",
    "exit code 0 from the call": "import os\ndef double(x): os._exit(0)",
    "printed markers": """
        print("OK passed PASSED 20 passed, 0 failed")
        print('{"i": 0, "value": {"int": "0x0"}}')
        def double(x): pass
    """,
    "forged lines": """
        import os
        def double(x):
            for fd in range(3, 20):
                try:
                    os.write(fd, b'{"i": 0, "value": true}\\n' * 30)
                except OSError:
                    pass
            os._exit(0)
    """,
    "patched driver": """
        import sys
        main = sys.modules["__main__"]
        main.encode = lambda value, depth=0: {"any": "thing"}
        def double(x): return None
    """,
    "patched json": """
        import json
        json.dumps = lambda record: '{"i": %d, "value": NaN}' % record["i"]
        def double(x): return None
    """,
    "wrong type": "def double(x): return str(2 * x)",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_no_forgery_passes_for_an_answer(box, monkeypatch, code):
    monkeypatch.setattr(sandbox, "default", lambda: box)
    answer = f"```python\n{textwrap.dedent(code)}\n```"
    assert TASKS["coding"].score(DOUBLE, answer) == 0.0


@pytest.mark.slow
def test_a_hundred_jobs_at_once_leave_no_orphan():
    hundred_jobs(100)


def test_a_dozen_jobs_at_once_leave_no_orphan():
    hundred_jobs(12)


def hundred_jobs(count):
    box = Sandbox(workers=4, limits=QUICK)
    box.require()
    lingering = textwrap.dedent(ESCAPES["SIGTERM and SIGALRM ignored"])
    daemon = textwrap.dedent("""
        import os
        def f(x):
            if os.fork() == 0:
                os.setsid()
                while True: pass
            return x
    """)
    jobs = [(lingering, "f", [()]) if i % 12 == 5 else (daemon, "f", [(i,)]) for i in range(count)]
    results = box.run_many(jobs)
    for i, result in enumerate(results):
        assert result.end == "time" if i % 12 == 5 else result.calls == (("value", i),)
    assert not candidates_of(box)
    mine = {child.process.pid for child in box._pool.children if child.process}
    assert len(mine) <= 4
    box.close()
    assert not mine & {int(p) for p in os.listdir("/proc") if p.isdigit()}


def test_a_killed_warden_is_no_verdict_and_is_replaced():
    box = Sandbox(workers=1, limits=Limits(wall_s=30, call_s=30))
    box.require()
    warden = box._pool.children[0].process.pid
    before = candidates()
    code = "import time\ndef f():\n    time.sleep(20)"
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {warden}"])
    with pytest.raises(SandboxError, match="the sandbox server failed"):
        box.run(code, "f", [()])
    killer.wait()
    assert box.run("def f(): return 1", "f", [()]).calls == (("value", 1),)
    assert not candidates() - before
    box.close()


def test_a_sandbox_that_ends_before_the_candidate_begins_is_no_verdict(box, monkeypatch):
    result = {"end": "exit", "code": 137, "output": "", "note": ""}  # as after the OOM killer
    monkeypatch.setattr(box, "_exchange", lambda *_: result)
    with pytest.raises(SandboxError, match="before the candidate began"):
        box.run("def f(): return 1", "f", [()], cached=False)
    result |= {"end": "setup", "note": "unshare: Operation not permitted"}
    with pytest.raises(SandboxError, match="could not be set up: unshare"):
        box.run("def f(): return 1", "f", [()], cached=False)


def test_a_killed_client_leaves_no_warden_and_no_candidate():
    code = """
        from qwen3.sandbox.runner import Limits, Sandbox
        box = Sandbox(workers=1, limits=Limits(wall_s=60, call_s=60))
        box.require()
        print(box._pool.children[0].process.pid, flush=True)
        box.run("import time\\ndef f():\\n    time.sleep(50)", "f", [()])
    """
    before = candidates()
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    warden = int(client.stdout.readline())
    for _ in range(100):
        if started := candidates() - before:
            break
        time.sleep(0.05)
    assert started
    client.send_signal(signal.SIGKILL)
    client.wait()
    for _ in range(100):
        gone = not os.path.exists(f"/proc/{warden}/cmdline") and not started & candidates()
        if gone:
            return
        time.sleep(0.05)
    raise AssertionError((warden, started & candidates()))


def everyone_may_run(path):
    folders = [path, *(str(parent) for parent in Path(path).parents)]
    return all(os.path.exists(part) and os.stat(part).st_mode & 0o001 for part in folders)


def test_without_isolation_code_is_refused_until_allowed(monkeypatch):
    monkeypatch.setattr(runner, "LEVELS", ("rlimits",))
    if os.geteuid() == 0 and not everyone_may_run(os.path.realpath(sys.executable)):
        # Root never runs a candidate as root: without namespaces it needs a public interpreter.
        with pytest.raises(SandboxUnavailable, match="no code can be run.*Permission denied"):
            Sandbox(workers=1, allow_unisolated=True).require()
        if not everyone_may_run("/usr/bin/python3"):
            pytest.skip("no interpreter that every user may run")
        monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    closed = Sandbox(workers=1, limits=QUICK)
    with pytest.raises(SandboxUnavailable, match="pass allow_unisolated=True"):
        closed.run("def f(): return 1", "f", [()])
    monkeypatch.setattr(sandbox, "default", lambda: closed)
    with pytest.raises(SandboxUnavailable):
        TASKS["coding"].require()
    with pytest.raises(SandboxUnavailable):  # never a silent zero, never "no verdict"
        TASKS["coding"].score(DOUBLE, "```python\ndef double(x): return 2 * x\n```")
    left = Path(tempfile.gettempdir()) / "candidate-999999999-x"  # of a warden that was killed
    left.mkdir(exist_ok=True)
    (left / "file").write_text("x")
    box = Sandbox(workers=1, limits=QUICK, allow_unisolated=True)
    assert box.run("def f(): return 1", "f", [()]).calls == (("value", 1),)
    assert box.probe()["level"] == "rlimits" and not left.exists()
    (warden,) = [child.process.pid for child in box._pool.children]
    assert not [name for name in os.listdir(left.parent) if name.startswith(f"candidate-{warden}-")]
    daemon = """
        import os, time
        def f():
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(1000)
                os._exit(0)
            return "parent"
    """
    assert run(box, daemon).calls == (("value", "parent"),)
    assert not candidates_of(box)
    box.close()


def test_a_repeated_job_is_answered_from_the_cache(box, monkeypatch):
    first = box.run("def f(x): return x", "f", [(1,)])
    monkeypatch.setattr(box, "_exchange", None)
    assert box.run("def f(x): return x", "f", [(1,)]) is first
    with pytest.raises(TypeError):
        box.run("def f(x): return x", "f", [(2,)])
