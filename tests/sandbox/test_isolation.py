"""What a candidate must not reach beyond the escape list: shared memory, keys, other sockets."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from qwen3.sandbox import driver, isolation_probe, namespaces, runner, seccomp
from qwen3.sandbox.runner import Limits, Sandbox, SandboxError

QUICK = Limits(wall_s=3.0, call_s=1.0, cpu_s=3)


@pytest.fixture(scope="module")
def box():
    box = Sandbox(workers=1, limits=QUICK)
    if box.probe()["level"] != "namespaces":
        pytest.skip(f"no namespaces on this machine: {box.probe()['refused']}")
    yield box
    box.close()


@pytest.fixture(scope="module")
def workshop():
    """A sandbox with all that a compiler or a virtual machine may ask for."""
    limits = dataclasses.replace(QUICK, work_kb=2048, wall_s=20.0, call_s=10.0)
    workshop = Sandbox(workers=1, limits=limits, folders=("/etc/ld.so.conf.d",), own_proc=True)
    if workshop.probe()["level"] != "namespaces":
        pytest.skip(f"no namespaces with these folders: {workshop.probe()['refused']}")
    yield workshop
    workshop.close()


def value(box, code, args=()):
    run = box.run(textwrap.dedent(code), "f", [args], cached=False)
    assert [kind for kind, _ in run.calls] == ["value"], run
    return run.calls[0][1]


def test_the_report_measures_every_promise(box):
    report = box.probe()
    assert report["families"] == [] and report["shared_memory"] is False
    assert report["keys"] is False and report["processes"] <= QUICK.processes
    assert isolation_probe.shortcomings(report, QUICK.processes) == []


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"processes": 9}, "9 processes of 8"),
        ({"families": [40]}, r"families \[40\] open"),
        ({"shared_memory": True}, "shared memory is open"),
        ({"keys": True}, "keys of the session"),
        ({"uid": 0}, "as root"),
    ],
)
def test_a_level_that_breaks_a_promise_is_not_reached(box, monkeypatch, change, fault):
    other = Sandbox(workers=1, limits=QUICK)
    calls = (("value", {**box.probe(), **change}),)

    class Reported:
        def __init__(self, *_):
            self.calls = calls

    monkeypatch.setattr(Sandbox, "_read", Reported)
    monkeypatch.setattr(runner, "LEVELS", ("namespaces",))
    assert other.probe()["level"] == "none"
    with pytest.raises(runner.SandboxUnavailable, match=fault):
        other.require()


EXECUTES = """
    import os, subprocess
    def f(folder):
        path = folder + "/program"
        with open(path, "w") as file:
            file.write("#!" + PYTHON + "\\n")
        os.chmod(path, 0o6755)
        try:
            return subprocess.run([path], input="", timeout=9).returncode
        except OSError as error:
            return type(error).__name__
"""


def test_programs_are_executed_in_a_work_folder_only(box, workshop):
    code = EXECUTES.replace("PYTHON", repr(os.path.realpath(sys.executable)))
    assert value(box, code, ("/tmp",)) == "PermissionError"
    assert value(workshop, code, ("/tmp",)) == "PermissionError"
    assert value(workshop, code, ("/work",)) == 0
    assert value(box, "import os\ndef f(): return [os.path.exists('/work'), os.getcwd()]") == [
        False,
        "/tmp",
    ]


def test_a_work_folder_is_empty_bounded_and_gives_no_rights(workshop):
    code = """
        import os
        def f():
            before = os.listdir(".")
            try:
                for number in range(9):
                    with open(f"{number}", "wb") as file:
                        file.write(bytes(1 << 20))
            except OSError as error:
                return before, os.getcwd(), number, type(error).__name__
    """
    for _ in range(2):  # nothing stays for the next job
        assert value(workshop, code) == ([], "/work", 2, "OSError")
    flags = "import os\ndef f(): return os.statvfs('/work').f_flag & (os.ST_NOSUID | os.ST_NODEV)"
    assert value(workshop, flags) == os.ST_NOSUID | os.ST_NODEV


def test_its_own_proc_shows_a_candidate_itself_alone(workshop):
    code = """
        import os
        def f():
            names = sorted(os.listdir("/proc"))
            try:
                open("/proc/self/oom_score_adj", "w").close()
            except OSError as error:
                return names, os.getpid(), type(error).__name__
    """
    names, pid, error = value(workshop, code)
    assert names == sorted([str(pid), "self", "thread-self"]) and error == "OSError"


def test_folders_that_are_granted_are_seen_and_no_others(workshop):
    report = workshop.probe()
    assert report["level"] == "namespaces" and report["sees"] == []
    code = "import os\ndef f(path): return os.listdir(path)"
    assert value(workshop, code, ("/etc",)) == ["ld.so.conf.d"]
    strange = "def f(folders):\n    return strangers('/etc', folders)"
    assert value(workshop, isolation_probe.PROBE + strange, ([],)) == ["/etc"]
    assert value(workshop, isolation_probe.PROBE + strange, (["/etc/other"],)) == [
        "/etc/ld.so.conf.d"
    ]


def test_shared_memory_and_queues_of_system_v_are_closed(box):
    code = """
        import ctypes
        def f():
            libc = ctypes.CDLL(None)
            return [libc.shmget(0, 1 << 20, 0o1600), libc.semget(0, 1, 0o1600),
                    libc.msgget(0, 0o1600), libc.syscall(MEMFD, b"x", 0)]
    """.replace("MEMFD", str(seccomp.REFUSED["memfd_create"][_column()]))
    assert value(box, code) == [-1] * 4


def _column():
    return list(seccomp.ARCHITECTURES).index(os.uname().machine)


def test_only_unix_and_internet_sockets_open(box):
    code = """
        import socket
        def f(family):
            try:
                socket.socket(family, socket.SOCK_STREAM)
                return True
            except OSError:
                return False
    """
    opened = [family for family in range(1, 46) if value(box, code, (family,))]
    assert opened == [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]


def test_the_session_keyring_of_the_trainer_is_out_of_reach(box):
    number = namespaces.KEYCTL[os.uname().machine]
    code = f"""
        import ctypes
        def f():
            libc = ctypes.CDLL(None)
            return [libc.syscall({number}, command, -3, None, 0) for command in (0, 6, 11)]
    """
    assert value(box, code) == [-1] * 3


@pytest.mark.parametrize("name", ["unshare", "bpf", "userfaultfd", "io_uring_setup", "ptrace"])
def test_calls_that_no_computation_needs_are_refused(box, name):
    number = seccomp.REFUSED[name][_column()]
    code = f"""
        import ctypes
        def f():
            libc = ctypes.CDLL(None, use_errno=True)
            return libc.syscall({number}, 0, 0, 0, 0, 0), ctypes.get_errno()
    """
    assert value(box, code) == (-1, 1)  # EPERM


def test_threads_processes_and_files_still_work(box):
    code = """
        import os, subprocess, tempfile, threading
        def f():
            done = []
            thread = threading.Thread(target=done.append, args=(1,))
            thread.start()
            thread.join()
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            done.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            with tempfile.TemporaryFile() as file:
                done.append(file.write(b"abc"))
            return done
    """
    assert value(box, code) == [1, 7, 3]


def test_the_filter_is_small_and_has_a_program_for_each_machine():
    for machine in seccomp.ARCHITECTURES:
        code = seccomp.program(machine, namespaces.WITH_NAMESPACE)
        assert len(code) % 8 == 0 and len(code) // 8 < 4096  # the kernel's bound


def test_without_a_filter_there_is_no_isolation_but_limits_remain():
    def no_filter(_families):
        raise OSError("seccomp: Function not implemented")

    with pytest.raises(OSError, match="not implemented"):
        namespaces.apply_filter({"level": "namespaces", "filter": no_filter})
    namespaces.apply_filter({"level": "rlimits", "filter": no_filter})


def test_candidates_are_the_first_to_go_when_memory_ends(box):
    (warden,) = [child.process.pid for child in box._pool.children]
    with open(f"/proc/{warden}/oom_score_adj") as file:  # its children inherit it
        assert file.read().strip() == "1000"


def test_a_control_group_holds_the_memory_of_a_whole_job(box):
    if box.probe()["control_group"] is None:
        pytest.skip("no control group can be made on this machine")
    roomy = Sandbox(workers=1, limits=Limits(wall_s=20.0, call_s=10.0, memory_mb=256))
    roomy.require()
    code = """
        import os, time
        def f(megabytes, processes):
            for _ in range(processes):
                if os.fork() == 0:
                    block = b"x" * (megabytes << 20)
                    time.sleep(1)
                    os._exit(0)
            return sum(os.waitpid(-1, 0)[1] != 0 for _ in range(processes))
    """
    # Four processes of 150 MB: within the limit of each, not of all together.
    calls = roomy.run(textwrap.dedent(code), "f", [(150, 1), (150, 4)], cached=False).calls
    roomy.close()
    assert calls[0] == ("value", 0)
    assert len(calls) == 1 or calls[1][1] > 0  # the kernel ended the first process, or others


# --- answers are read in linear time


def seconds_to_read(line):
    """Processor time of the reading thread, the best of three: the rest of a worker has its own."""
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        calls = runner.read_calls(line, 1)
        seconds.append(time.thread_time() - start)
    return min(seconds), calls


_SAME_HASH = [{"int": hex(i * (2**61 - 1))} for i in range(1, 30_000)]
COLLIDING = {
    "set": {"set": _SAME_HASH},
    "frozenset": {"frozenset": _SAME_HASH},
    "dict": {"dict": [[key, None] for key in _SAME_HASH]},
    "set of tuples": {"set": [{"tuple": [item]} for item in _SAME_HASH]},
    "in a list": {"list": [{"set": _SAME_HASH}]},
}


@pytest.mark.parametrize("data", COLLIDING.values(), ids=COLLIDING)
def test_sets_of_colliding_hashes_cost_the_trainer_no_time(data):
    seconds, calls = seconds_to_read(json.dumps({"i": 0, "value": data}))
    assert calls == () and seconds < 1.0


def test_ordinary_large_sets_are_read():
    numbers = {hash(str(i)) for i in range(20_000)} | {0, -1, -2, 2**61 - 1}
    assert driver.decode(driver.encode(numbers)) == numbers
    table = {(i, str(i)): [i] for i in range(5_000)}
    assert driver.decode(driver.encode(table)) == table


def test_an_answer_of_a_megabyte_costs_less_than_a_second():
    line = '{"i": 0, "value": {"list": [' + ", ".join(['{"set": []}'] * 80_000) + "]}}"
    for text in (
        line,
        '{"i": 0, "value": ' + "9" * 1_000_000 + "}",
        '{"i": 0, "value": ' + "[" * 500_000,
    ):
        assert seconds_to_read(text)[0] < 1.0


# --- the cache


def test_the_cache_is_bounded_in_bytes(box):
    small = Sandbox(workers=1, limits=QUICK, cache_mb=0.25)
    small.require()
    code = "def f(n):\n    return 'x' * 100_000 + str(n)"
    runs = [small.run(code, "f", [(n,)]) for n in range(4)]
    assert sum(len(run.output) for run in small._cache.values()) <= 0.25 * 2**20
    assert small.run(code, "f", [(3,)]) is runs[3] and small.run(code, "f", [(0,)]) is not runs[0]
    small.close()


def test_an_error_ends_a_run_that_asks_for_it(box):
    code = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    run = box.run(code, "f", [(0,), (9,), (9,), (0,)], stop_at_error=True, cached=False)
    assert run.calls == (("value", 0), ("error", "TimeoutError"))


# --- without isolation

FORGERY = """
import json, os
from qwen3.sandbox import runner
runner.LEVELS = ("rlimits",)
box = runner.Sandbox(workers=1, allow_unisolated=True)
box.require()
code = '''
import json, os
def f(trainer):
    line = json.dumps({"end": "exit", "code": 0, "note": "", "nonce": "", "group": None,
                       "output": '"ready"' + chr(10) + '{"i": 0, "value": {"int": "0x2a"}}'})
    opened = []
    for pid in (trainer, os.getppid()):
        for fd in range(32):
            try:
                with open(f"/proc/{pid}/fd/{fd}", "wb", buffering=0) as file:
                    file.write(line.encode() + b"\\\\n")
            except OSError:
                pass
        for name in ("environ", "mem"):
            try:
                open(f"/proc/{os.getppid()}/{name}", "rb").close()
                opened.append(name)
            except OSError:
                pass
    return opened
'''
try:
    print(json.dumps(box.run(code, "f", [(os.getpid(),)], cached=False).calls))
except runner.SandboxError as error:
    print(json.dumps(str(error)))
print(json.dumps(box.run("def f(): return 1", "f", [()], cached=False).calls))
"""


def test_without_isolation_a_line_in_the_wardens_name_is_no_result(tmp_path):
    python = os.path.realpath(sys.executable)
    user = []
    if os.geteuid() == 0:  # an ordinary user, with an interpreter that every user may run
        python, user = "/usr/bin/python3", ["setpriv", "--reuid=12345", "--clear-groups"]
        version = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(version, check=False).returncode:
            pytest.skip("no interpreter that every user may run")
    source = str(namespaces.__file__).rsplit("/qwen3/", 1)[0]
    run = subprocess.run(
        [*user, python, "-c", FORGERY],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": source},
    )
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert "0x2a" not in first and "42" not in first
    refused = (
        "the sandbox server's answer is not its own",
        "the sandbox server failed: Extra data",
    )
    assert first.startswith(tuple(f'"{text}' for text in refused)) or first == '[["value", []]]'
    assert second == '[["value", 1]]'


def test_an_answer_with_another_nonce_is_a_failure(box, monkeypatch):
    monkeypatch.setattr(runner.secrets, "token_hex", lambda _: "forged")
    assert box.run("def f(): return 1", "f", [()], cached=False).calls == (("value", 1),)
    worker = box._pool.children[0]
    asked = worker.ask
    monkeypatch.setattr(worker, "ask", lambda *a: {**asked(*a), "nonce": "other"})
    with pytest.raises(SandboxError, match="is not its own"):
        box.run("def f(): return 1", "f", [()], cached=False)
