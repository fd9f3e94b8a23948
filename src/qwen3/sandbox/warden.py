"""The warden: runs one untrusted program per request in namespaces of its own, kills it, reports.

Started by exec as `python -I -S warden.py`; single-threaded, so it may fork. First line in: the
configuration; then one JSON request a line, one JSON answer a line, which repeats the request's
nonce: nobody who writes into our pipe can know it, as this process is closed to others of its user.

    warden --fork--> outer (new user, net, pid, mount, ipc, uts namespaces; control group)
                       --fork--> init (pid 1, trusted: private root, watches a lifeline)
                                   --fork--> candidate (other uid, rlimits, no capabilities,
                                                        own keyring, seccomp filter, exec)

The lifeline is a pipe that only the warden holds open: closed, or the warden dead, init exits, and
the kernel kills all that is in the pid namespace, whatever it did to its session or signals.
Standard library only, no package imports.
"""

import errno
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import util
from typing import Any


def _load(name: str) -> Any:
    """The module beside this file: `python -I` looks in no folder of ours."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


namespaces, seccomp, cgroups = map(_load, ("namespaces", "seccomp", "cgroups"))

GRACE = 5.0  # seconds that init gets to go before the outer process is killed
FOLDER = "candidate-"  # then the warden's number: a folder of a job without namespaces
PIPES = ("job", "answers", "life", "note", "go")
# Which end of each pipe is the warden's: 0 reads, 1 writes.
OURS = {"job": 1, "answers": 0, "life": 1, "note": 0, "go": 1}


def map_ids(pid: int, number: int) -> bytes:
    """Maps ids of the new user namespace. Root maps two (b"2"), others themselves only (b"1").

    Root gives the candidate an outside uid of its own: limits on processes do not bind uid 0.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        text = f"0 0 1\n{namespaces.INNER} {namespaces.OUTER + number} 1\n"
        try:
            for name in ("uid_map", "gid_map"):
                namespaces.write(f"/proc/{pid}/{name}", text)
            return b"2"
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    namespaces.write(f"/proc/{pid}/setgroups", "deny")
    namespaces.write(f"/proc/{pid}/uid_map", f"{namespaces.INNER} {uid} 1\n")
    namespaces.write(f"/proc/{pid}/gid_map", f"{namespaces.INNER} {gid} 1\n")
    return b"1"


def run(config: Mapping[str, Any], payload: bytes, seconds: float) -> dict[str, Any]:
    """Runs the program on `payload` (its standard input) for `seconds` of wall time.

    Returns {"end": "exit", "time", "output" or "setup", "code": int, "output": text, "note": text,
    "group": version of the control group or None}.
    """
    pipes = {name: os.pipe() for name in PIPES}
    inner = {name: pipes[name][1 - side] for name, side in OURS.items()}
    fds: dict[str, int | None] = {name: pipes[name][side] for name, side in OURS.items()}
    # Numbers above all files of the candidate: it can close everything else below them.
    inner["note"] = _raise(inner["note"])
    inner["nothing"] = os.open(os.devnull, os.O_RDWR)
    group = control_group(config)
    pid = os.fork()
    if pid == 0:
        for fd in filter(None, fds.values()):
            os.close(fd)
        enter = namespaces.outer if config["level"] == "namespaces" else namespaces.bare
        namespaces.guarded(enter, config, inner, note=inner["note"])
    for fd in inner.values():
        os.close(fd)
    note = start(config, pid, fds, group)
    result = watch(config, pid, fds, payload, seconds)
    assert fds["note"] is not None
    note += _drain(fds["note"], 300)
    for fd in filter(None, fds.values()):
        os.close(fd)
    sweep()
    if group is not None:
        group.remove()
    # The note's pipe is closed before the candidate starts; an exit code anyone could set.
    if note:
        result["end"] = "setup"
    version = group.version if group is not None else None
    return {**result, "note": note.decode(errors="replace"), "group": version}


def control_group(config: Mapping[str, Any]) -> Any:
    """A control group for one job, with room for its memory and our two processes; or None."""
    limits = config["limits"]
    files = (limits["tmp_kb"] + limits["work_kb"]) << 10
    memory = (limits["memory_mb"] << 20) + files + (16 << 20)
    return cgroups.create(config["number"], memory, limits["processes"] + 2)


def start(config: Mapping[str, Any], pid: int, fds: Mapping[str, Any], group: Any) -> bytes:
    """Puts the waiting child into its group, maps its ids, lets it go; b"" or what went wrong."""
    answer = b"1"
    try:
        if group is not None:
            group.add(pid)
        if config["level"] == "namespaces":
            note = os.read(fds["note"], 300)
            if note != b"u":
                return note
            answer = map_ids(pid, config["number"])
        os.write(fds["go"], answer)
    except OSError as error:
        return str(error).encode()
    return b""


def watch(
    config: Mapping[str, Any], pid: int, fds: dict[str, Any], payload: bytes, seconds: float
) -> dict[str, Any]:
    """Feeds the job, collects bounded output, and ends the program by its lifeline or by force."""
    os.close(fds["go"])
    fds["go"] = None
    done = os.pidfd_open(pid)
    for name in ("job", "answers", "note"):
        os.set_blocking(fds[name], False)
    poll = select.poll()
    poll.register(done, select.POLLIN)
    poll.register(fds["answers"], select.POLLIN)
    poll.register(fds["job"], select.POLLOUT)
    poll.register(0, 0)  # hang-up of the client
    end, deadline, output = "exit", time.monotonic() + seconds, bytearray()
    cap = config["limits"]["output_kb"] << 10
    while True:
        left = deadline - time.monotonic()
        ready = dict(poll.poll(max(0, left) * 1000))
        if fds["job"] in ready:
            payload = payload[_feed(fds["job"], payload) :]
            if not payload:
                poll.unregister(fds["job"])
                os.close(fds["job"])
                fds["job"] = None
        if fds["answers"] in ready:
            chunk = _drain(fds["answers"], cap + 1 - len(output))
            output += chunk
            if not chunk:
                poll.unregister(fds["answers"])
        if len(output) > cap:
            end = "output"
            break
        if done in ready:
            break
        if left <= 0 or 0 in ready:
            end = "time"
            break
    os.close(fds["life"])
    fds["life"] = None
    code = finish(config, pid, done)
    os.close(done)
    if end == "exit":
        output += _drain(fds["answers"], cap + 1 - len(output))
    return {"end": end, "code": code, "output": output[:cap].decode(errors="replace")}


def finish(config: Mapping[str, Any], pid: int, done: int) -> int:
    """Waits for the outer process; kills it (and its group) if it does not go by itself."""
    if config["level"] == "namespaces":
        select.select([done], [], [], GRACE)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return namespaces.exit_code(os.waitpid(pid, 0)[1])


def sweep() -> None:
    """Kills and reaps what was re-parented to the warden: daemons of a run without namespaces."""
    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # ours and not reaped yet: the number cannot be another's
        time.sleep(0.001)


def _children() -> list[int]:
    """Process numbers of this process's children."""
    pids = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            pids.append(int(name))
    return pids


def new_folder() -> str:
    """An empty folder for one job; those of wardens that were killed at work go."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        owner = name.removeprefix(FOLDER).split("-")[0]
        if name.startswith(FOLDER) and owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=parent)
    os.chmod(folder, 0o777)
    return folder


def _raise(fd: int) -> int:
    """A copy of a file with a number from 200 on, closed on exec; the file itself is closed."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return high


def _feed(fd: int, payload: bytes) -> int:
    """How many bytes of the payload have been taken; all of them if nobody reads any more."""
    try:
        return os.write(fd, payload[: 1 << 16])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(payload)


def _drain(fd: int, limit: int) -> bytes:
    """What can be read at once, at most `limit` bytes."""
    data = bytearray()
    while len(data) < limit:
        try:
            chunk = os.read(fd, min(limit - len(data), 1 << 16))
        except BlockingIOError:
            break
        if not chunk:
            break
        data += chunk
    return bytes(data)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    namespaces.prctl(namespaces.SET_SUBREAPER, 1)
    # Out of memory, the kernel ends candidates (and us) before any other process.
    namespaces.write("/proc/self/oom_score_adj", "1000")
    namespaces.prctl(namespaces.SET_DUMPABLE, 0)  # no one of our user opens our files or memory
    config = json.loads(sys.stdin.readline())
    config["filter"] = seccomp.install
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        config["folder"] = None
        if config["level"] != "namespaces":
            config["folder"] = new_folder()
        try:
            result = run(config, request["payload"].encode(), request["seconds"])
        except OSError as error:
            failed = namespaces.SETUP_FAILED
            result = {"end": "setup", "code": failed, "output": "", "note": str(error)}
        finally:
            if config["folder"]:
                shutil.rmtree(config["folder"], ignore_errors=True)
        sys.stdout.write(json.dumps({**result, "nonce": request["nonce"]}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
