"""The warden: runs one untrusted program per request in namespaces of its own, kills it, reports.

Started by exec as `python -I -S sandbox_server.py`; single-threaded, so it may fork. First line in:
the configuration; then one JSON request a line, one JSON answer a line.

    warden --fork--> outer (new user, net, pid, mount, ipc, uts namespaces)
                       --fork--> init (pid 1, trusted: private root, watches a lifeline)
                                   --fork--> candidate (other uid, rlimits, no capabilities, exec)

The lifeline is a pipe that only the warden holds open: closed, or the warden dead, init exits, and
the kernel kills all that is in the pid namespace, whatever it did to its session or signals.
Standard library only, no package imports.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_FLAGS = {
    "user": 0x10000000, "net": 0x40000000, "pid": 0x20000000,
    "mount": 0x00020000, "ipc": 0x08000000, "uts": 0x04000000,
}  # fmt: skip
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SET_PDEATHSIG, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVS = 1, 4, 36, 38
SETUP_FAILED = 97
INNER = 1000  # the candidate's uid and gid inside
OUTER = 61_000  # and outside, plus the warden's number, when the warden is root
GRACE = 5.0  # seconds that init gets to go before the outer process is killed
POINTS = ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp")


def check(result, what):
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option, value):
    check(LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def mount(source, target, kind, flags, data=None):
    values = [None if v is None else v.encode() for v in (source, target, kind)]
    options = None if data is None else data.encode()
    check(LIBC.mount(*values, ctypes.c_ulong(flags), options), f"mount {target}")


def seal(path, attributes, recursive):
    """Adds mount attributes (read-only, ...) to the mount at `path`."""
    block = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    where = ctypes.c_long(AT_FDCWD)
    flags = ctypes.c_uint(AT_RECURSIVE if recursive else 0)
    result = LIBC.syscall(
        ctypes.c_long(MOUNT_SETATTR), where, path.encode(), flags, block, ctypes.c_size_t(32)
    )
    check(result, f"mount_setattr {path}")


def forbid_namespaces():
    """No user namespace inside this one, where the kernel's knob can be reached."""
    try:
        _write("/proc/sys/user/max_user_namespaces", "0")
    except OSError:
        pass  # a nested namespace would hold the same root, network and limits


def build_root(config):
    """A private root: an empty tmpfs with the interpreter's folders bound read-only and a /tmp."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    binds = config["binds"]
    point = next(p for p in POINTS if os.path.isdir(p) and not any(
        (b + "/").startswith(p + "/") for b in binds))  # fmt: skip
    mount("tmpfs", point, "tmpfs", MS_NOSUID | MS_NODEV, "size=256k,mode=755")
    for path in binds:
        target = point + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        os.makedirs(target, exist_ok=True)
        mount(path, target, None, MS_BIND | MS_REC)
        seal(target, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=True)
    os.mkdir(point + "/tmp")
    size = f"size={config['limits']['tmp_kb']}k,nr_inodes=256,mode=1777"
    mount("tmpfs", point + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, size)
    os.chdir(point)
    number = PIVOT_ROOT[os.uname().machine]
    check(LIBC.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    check(LIBC.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    seal("/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    os.chdir("/tmp")


def set_limits(limits):
    table = {
        resource.RLIMIT_AS: limits["memory_mb"] << 20,
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_FSIZE: limits["file_kb"] << 10,
        resource.RLIMIT_NOFILE: limits["files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 8 << 20,
    }
    for limit, value in table.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def candidate(config, fds, uid):
    """Becomes the untrusted program; never returns."""
    os.setsid()
    os.dup2(fds["job"], 0)
    os.dup2(fds["answers"], 1)
    os.dup2(fds["nothing"], 2)
    os.closerange(3, fds["note"])  # the rest closes on exec
    set_limits(config["limits"])
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl(SET_NO_NEW_PRIVS, 1)
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    python = config["python"]
    os.execve(python, [python, "-I", "-S", "-c", config["program"]], {})


def init(config, fds, uid):
    """Pid 1 of the namespace: ends, and with it everything inside, when the lifeline closes."""
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    prctl(SET_DUMPABLE, 0)
    os.setsid()
    forbid_namespaces()
    build_root(config)
    inside = os.fork()
    if inside == 0:
        guarded(candidate, config, fds, uid, note=fds["note"])
    for name in ("job", "answers"):
        os.close(fds[name])
    done = os.pidfd_open(inside)
    poll = select.poll()
    poll.register(done, select.POLLIN)
    poll.register(fds["life"], 0)
    poll.poll()
    ended, status = os.waitpid(inside, os.WNOHANG)
    os._exit(exit_code(status) if ended else 255)


def outer(config, fds):
    """Enters the namespaces, has the warden map its ids, then forks pid 1 and relays its end."""
    flags = 0
    for flag in CLONE_FLAGS.values():
        flags |= flag
    check(LIBC.unshare(flags), "unshare")
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    os.write(fds["note"], b"u")
    answer = os.read(fds["go"], 1)
    if not answer:
        os._exit(SETUP_FAILED)
    uid = INNER if answer == b"2" else None
    pid = os.fork()
    if pid == 0:
        guarded(init, config, fds, uid, note=fds["note"])
    for name in ("job", "answers", "life"):
        os.close(fds[name])
    os._exit(exit_code(os.waitpid(pid, 0)[1]))


def bare(config, fds):
    """Without namespaces: rlimits, a folder of its own, another uid if the warden is root."""
    os.chdir(config["folder"])
    uid = OUTER + config["number"] if os.geteuid() == 0 else None
    candidate(config, fds, uid)


def guarded(function, *arguments, note):
    """Runs a child's half; any exception becomes a note and an exit, never a return."""
    try:
        function(*arguments)
    except BaseException as error:
        os.write(note, f"{type(error).__name__}: {error}"[:300].encode())
    finally:
        os._exit(SETUP_FAILED)


def exit_code(status):
    return os.waitstatus_to_exitcode(status) & 0xFF


def map_ids(pid, number):
    """Maps ids of the new user namespace. Root maps two (b"2"), others themselves only (b"1").

    Root gives the candidate an outside uid of its own: limits on processes do not bind uid 0.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        text = f"0 0 1\n{INNER} {OUTER + number} 1\n"
        try:
            for name in ("uid_map", "gid_map"):
                _write(f"/proc/{pid}/{name}", text)
            return b"2"
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
    _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{INNER} {uid} 1\n")
    _write(f"/proc/{pid}/gid_map", f"{INNER} {gid} 1\n")
    return b"1"


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)


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
        guarded(outer if spaces else bare, config, theirs, note=theirs["note"])
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
    if note or (result["code"] == SETUP_FAILED and not result["output"]):
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
    return exit_code(os.waitpid(pid, 0)[1])


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
    prctl(SET_SUBREAPER, 1)
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
            result = {"end": "setup", "code": SETUP_FAILED, "output": "", "note": str(error)}
        finally:
            if config["folder"]:
                shutil.rmtree(config["folder"], ignore_errors=True)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
