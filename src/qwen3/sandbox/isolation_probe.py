"""The program that looks, from inside, at what a candidate can reach; and what must not be so."""

from collections.abc import Mapping
from typing import Any

# Runs as a candidate does: `look(limit on processes, folders, own_proc)` returns what it could do.
PROBE = """
import ctypes, os, signal, socket, time

libc = ctypes.CDLL(None)
KEYCTL = {"x86_64": 250, "aarch64": 219}

def reaches_network():
    '''Whether a packet can leave: a route to anywhere is enough.'''
    for address in ("192.0.2.1", "127.0.0.1"):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect((address, 9))
                return True
        except OSError:
            pass
    return False

def opens(family):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind).close()
            return True
        except OSError:
            pass
    return False

def strangers(path, folders):
    '''Paths from `path` downwards that are not among the folders and do not lead to one.'''
    if path in folders or not os.path.exists(path):
        return []
    if any(folder.startswith(path + "/") for folder in folders):
        return [p for n in os.listdir(path) for p in strangers(f"{path}/{n}", folders)]
    return [path]

def writes(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False

def shares_memory():
    return libc.shmget(0, 4096, 0o1600) != -1

def reads_keys():
    '''Whether the session keyring can be described (KEYCTL_DESCRIBE of -3).'''
    number = KEYCTL.get(os.uname().machine)
    return number is None or libc.syscall(number, 6, -3, None, 0) > 0

def most_processes(limit):
    '''How many processes there can be, up to eight more than the limit.'''
    pids = []
    try:
        while len(pids) < limit + 7:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            pids.append(pid)
    except OSError:
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(pids) + 1

def look(limit, folders, own_proc):
    if own_proc:
        folders = [*folders, "/proc/self", "/proc/thread-self", f"/proc/{os.getpid()}"]
    ordinary = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    return {"network": reaches_network(), "pid": os.getpid(), "uid": os.getuid(),
            "sees": [path for root in ("/proc", "/sys", "/home", "/etc", "/dev")
                     for path in strangers(root, folders)],
            "writes": [p for p in ("/x", "/usr/lib/x", "/etc/x") if writes(p)],
            "families": [f for f in range(1, 46) if f not in ordinary and opens(f)],
            "shared_memory": shares_memory(), "keys": reads_keys(),
            "processes": most_processes(limit), "environment": sorted(os.environ)}
"""


def shortcomings(report: Mapping[str, Any], processes: int) -> list[str]:
    """Which promises of isolation a report of PROBE breaks; none at the level "namespaces"."""
    faults = {
        "the network can be reached": report["network"],
        "processes of others are visible": report["pid"] > 9,
        "it runs as root": report["uid"] == 0,
        f"files of the host are visible: {report['sees']}": report["sees"],
        f"files of the host can be written: {report['writes']}": report["writes"],
        f"sockets of the families {report['families']} open": report["families"],
        "System V shared memory is open": report["shared_memory"],
        "keys of the session can be read": report["keys"],
        f"{report['processes']} processes of {processes}": report["processes"] > processes,
    }
    return [fault for fault, holds in faults.items() if holds]
