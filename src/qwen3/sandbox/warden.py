"""The warden: runs one untrusted program per request in namespaces of its own, kills it, reports.

Started by exec as `python -I -S warden.py`; single-threaded, so it may fork. First line in:
the configuration; then one JSON request a line, one JSON answer a line.

    warden --fork--> outer (new user, net, pid, mount, ipc, uts namespaces)
                       --fork--> init (pid 1, trusted: private root, watches a lifeline)
                                   --fork--> candidate (other uid, rlimits, no capabilities, exec)

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
from importlib import util


def _load(name):
    """The module beside this file: `python -I` looks in no folder of ours."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = util.spec_from_file_location(name, path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


namespaces = _load("namespaces")

GRACE = 5.0  # seconds that init gets to go before the outer process is killed


def map_ids(pid, number):
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


def run(config, payload, seconds):
    """Runs the program on `payload` (bytes for its standard input) for `seconds` of wall time.

    Returns {"end": "exit", "time", "output" or "setup", "code": int, "output": text, "note": text}.
    """
    pipes = {name: os.pipe() for name in ("job", "answers", "life", "note", "go")}
    ours = {"job": 1, "answers": 0, "life": 1, "note": 0, "go": 1}
    theirs = {name: pipes[name][1 - side] for name, side in ours.items()}
    mine = {name: pipes[name][side] for name, side in ours.items()}
    # Numbers above all files of the candidate: it can close everything else below them.
    theirs["note"] = _raise(theirs["note"])
    theirs["nothing"] = os.open(os.devnull, os.O_RDWR)
    spaces = config["level"] == "namespaces"
    pid = os.fork()
    if pid == 0:
        for fd in mine.values():
            os.close(fd)
        namespaces.guarded(
            namespaces.outer if spaces else namespaces.bare, config, theirs, note=theirs["note"]
        )
    for fd in theirs.values():
        os.close(fd)
    note = b""
    try:
        if spaces:
            note = os.read(mine["note"], 300)
            if note == b"u":
                note = b""
                os.write(mine["go"], map_ids(pid, config["number"]))
    except OSError as error:
        note = str(error).encode()
    result = watch(config, pid, mine, payload, seconds)
    note += _drain(mine["note"], 300)
    for fd in mine.values():
        if fd is not None:
            os.close(fd)
    sweep()
    if (
        note
    ):  # its pipe is closed before the candidate starts: not an exit code, which anyone can set
        result["end"] = "setup"
    return {**result, "note": note.decode(errors="replace")}


def watch(config, pid, fds, payload, seconds):
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


def finish(config, pid, done):
    """Waits for the outer process; kills it (and its group) if it does not go by itself."""
    if config["level"] == "namespaces":
        select.select([done], [], [], GRACE)
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return namespaces.exit_code(os.waitpid(pid, 0)[1])


def sweep():
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


def _children():
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(name))
    return found


def _raise(fd):
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return high


def _feed(fd, payload):
    try:
        return os.write(fd, payload[: 1 << 16])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(payload)


def _drain(fd, limit):
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


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    namespaces.prctl(namespaces.SET_SUBREAPER, 1)
    config = json.loads(sys.stdin.readline())
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        config["folder"] = None
        if config["level"] != "namespaces":
            config["folder"] = tempfile.mkdtemp(prefix="candidate-")
            os.chmod(config["folder"], 0o777)
        try:
            result = run(config, request["payload"].encode(), request["seconds"])
        except OSError as error:
            result = {
                "end": "setup",
                "code": namespaces.SETUP_FAILED,
                "output": "",
                "note": str(error),
            }
        finally:
            if config["folder"]:
                shutil.rmtree(config["folder"], ignore_errors=True)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
