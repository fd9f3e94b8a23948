"""The sandbox's inner side: entering namespaces, a private root, limits, becoming the candidate.

Runs in children of the warden (warden.py), which explains the chain of processes and loads this
file. Standard library only, no package imports.
"""

import ctypes
import os
import resource
import select
import signal
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_FLAGS = {
    "user": 0x10000000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
KEYCTL, JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1
SET_PDEATHSIG, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVS = 1, 4, 36, 38
SETUP_FAILED = 97  # exit code of a child that could not set up the sandbox
WITHOUT_INTERNET = (1,)  # socket families of a candidate without a network namespace: AF_UNIX
WITH_NAMESPACE = (1, 2, 10)  # and of one in an empty network of its own: AF_INET and AF_INET6 too
INNER = 1000  # the candidate's uid and gid inside
OUTER = 61_000  # and outside, plus the warden's number, when the warden is root
POINTS = ("/mnt", "/media", "/srv", "/opt", "/run", "/tmp")


def check(result: int, what: str) -> None:
    """OSError with the C library's errno if a call has failed."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; OSError if it fails."""
    check(LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2); OSError if it fails."""
    values = [None if v is None else v.encode() for v in (source, target, kind)]
    options = None if data is None else data.encode()
    check(LIBC.mount(*values, ctypes.c_ulong(flags), options), f"mount {target}")


def seal(path: str, attributes: int, recursive: bool) -> None:
    """Adds mount attributes (read-only, ...) to the mount at `path`."""
    block = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    where = ctypes.c_long(AT_FDCWD)
    flags = ctypes.c_uint(AT_RECURSIVE if recursive else 0)
    result = LIBC.syscall(
        ctypes.c_long(MOUNT_SETATTR), where, path.encode(), flags, block, ctypes.c_size_t(32)
    )
    check(result, f"mount_setattr {path}")


def forbid_namespaces() -> None:
    """Forbids user namespaces inside of this one, where the kernel's knob can be reached."""
    try:
        write("/proc/sys/user/max_user_namespaces", "0")
    except OSError:
        pass  # a nested namespace would hold the same root, network and limits


def build_root(config: Mapping[str, Any]) -> None:
    """Makes a private root: an empty tmpfs, folders of the host read-only, a /tmp, maybe a /work.

    Nothing in /tmp can be executed. The candidate starts in /work where there is one.
    """
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    binds = config["binds"]
    point = next(
        p
        for p in POINTS
        if os.path.isdir(p) and not any((b + "/").startswith(p + "/") for b in binds)
    )
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
    limits = config["limits"]
    empty_folder(point + "/tmp", limits["tmp_kb"], MS_NOEXEC)
    if limits["work_kb"]:
        empty_folder(point + "/work", limits["work_kb"], 0)
    if config["own_proc"]:
        os.mkdir(point + "/proc")
        flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        mount("proc", point + "/proc", "proc", flags, "subset=pid,hidepid=2")
    os.chdir(point)
    number = PIVOT_ROOT[os.uname().machine]
    check(LIBC.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    check(LIBC.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    seal("/", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, recursive=False)
    os.chdir("/work" if limits["work_kb"] else "/tmp")


def empty_folder(path: str, kb: int, flags: int) -> None:
    """A new folder in memory for at most `kb` KiB of files, which the candidate may write."""
    os.mkdir(path)
    size = f"size={kb}k,nr_inodes=256,mode=1777"
    mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | flags, size)


def set_limits(limits: Mapping[str, Any]) -> None:
    """Resource limits of this process, never above those that it has."""
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


def join_own_keyring() -> None:
    """Leaves the trainer's session keyring for an empty one; kernels without keys have neither."""
    number = KEYCTL.get(os.uname().machine)
    if number is not None:
        LIBC.syscall(ctypes.c_long(number), ctypes.c_int(JOIN_SESSION_KEYRING), None)


def apply_filter(config: Mapping[str, Any]) -> None:
    """Filters system calls; a kernel that cannot is an OSError, but where limits alone are asked.

    What stays open without the filter is measured and reported (isolation_probe).
    """
    isolated = config["level"] == "namespaces"
    try:
        config["filter"](WITH_NAMESPACE if isolated else WITHOUT_INTERNET)
    except OSError:
        if isolated:
            raise


def candidate(config: Mapping[str, Any], fds: Mapping[str, int], uid: int | None) -> NoReturn:
    """Becomes the untrusted program."""
    os.setsid()
    os.dup2(fds["job"], 0)
    os.dup2(fds["answers"], 1)
    os.dup2(fds["nothing"], 2)
    os.closerange(3, fds["note"])  # the rest closes on exec
    join_own_keyring()
    set_limits(config["limits"])
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl(SET_NO_NEW_PRIVS, 1)
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    apply_filter(config)
    python = config["python"]
    os.execve(python, [python, "-I", "-S", "-c", config["program"]], {})


def init(config: Mapping[str, Any], fds: Mapping[str, int], uid: int | None) -> NoReturn:
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


def outer(config: Mapping[str, Any], fds: Mapping[str, int]) -> NoReturn:
    """Enters the namespaces, has the warden map its ids, then forks pid 1 and relays its end."""
    flags = 0
    for flag in CLONE_FLAGS.values():
        flags |= flag
    check(LIBC.unshare(flags), "unshare")
    prctl(SET_DUMPABLE, 1)  # the warden, of our user, writes our id maps
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


def bare(config: Mapping[str, Any], fds: Mapping[str, int]) -> NoReturn:
    """Without namespaces: limits, a filter, its own folder, another uid if the warden is root."""
    if not os.read(fds["go"], 1):
        os._exit(SETUP_FAILED)
    os.chdir(config["folder"])
    uid = OUTER + config["number"] if os.geteuid() == 0 else None
    candidate(config, fds, uid)


def guarded(function: Callable[..., None], *arguments: Any, note: int) -> NoReturn:
    """Runs a child's half; any exception becomes a note and an exit, never a return."""
    try:
        function(*arguments)
    except BaseException as error:
        os.write(note, f"{type(error).__name__}: {error}"[:300].encode())
    finally:
        os._exit(SETUP_FAILED)


def exit_code(status: int) -> int:
    """The exit code of a wait status; 256 - N for death by signal N."""
    return os.waitstatus_to_exitcode(status) & 0xFF


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
