"""One control group for all processes of a job, where this machine lets us make one.

Limits of single processes leave gaps (files of a tmpfs, buffers of sockets and pipes, page tables);
a control group counts them all, and pids too. Version 2 needs a delegated group, version 1 root.
Standard library only, no package imports: the warden loads this file.
"""

import os
import time

ROOT = "/sys/fs/cgroup"
PREFIX = "qwen3-candidate-"  # then the number of the process that made the group


class ControlGroup:
    """The folders of one group, one for each controller tree."""

    def __init__(self, folders: list[str], version: int) -> None:
        self.folders = folders
        self.version = version

    def add(self, pid: int) -> None:
        """Moves a process in; OSError if it cannot be."""
        for folder in self.folders:
            _write(folder, "cgroup.procs", str(pid))

    def remove(self) -> None:
        """Removes the group, whose processes have ended, once the kernel has noticed."""
        for folder in self.folders:
            for _ in range(50):
                try:
                    os.rmdir(folder)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def create(number: int, memory: int, processes: int) -> ControlGroup | None:
    """A group of at most `memory` bytes and `processes` processes; None if none can be made.

    number: any, to tell the groups of this process apart.
    """
    name = f"{PREFIX}{os.getpid()}-{number}"
    for make in (_version_2, _version_1):
        try:
            return make(name, memory, processes)
        except OSError:
            continue
    return None


def _version_2(name: str, memory: int, processes: int) -> ControlGroup:
    own = next((path for _, names, path in _own() if not names), None)
    if own is None or not os.path.exists(f"{ROOT}/cgroup.controllers"):
        raise FileNotFoundError("no unified tree")
    folder = _make(f"{ROOT}{own}", name)
    try:
        _write(folder, "memory.max", str(memory))
        _write(folder, "pids.max", str(processes))
        if os.path.exists(f"{folder}/memory.swap.max"):
            _write(folder, "memory.swap.max", "0")
    except OSError:
        os.rmdir(folder)
        raise
    return ControlGroup([folder], 2)


def _version_1(name: str, memory: int, processes: int) -> ControlGroup:
    values = {"memory": ("memory.limit_in_bytes", memory), "pids": ("pids.max", processes)}
    folders: list[str] = []
    try:
        for _, names, path in _own():
            for controller in set(names) & set(values):
                folders.append(_make(f"{ROOT}/{controller}{path}", name))
                file, value = values[controller]
                _write(folders[-1], file, str(value))
        if len(folders) != len(values):
            raise FileNotFoundError("no memory and pids controllers")
    except OSError:
        for folder in folders:
            os.rmdir(folder)
        raise
    return ControlGroup(folders, 1)


def _own() -> list[tuple[str, list[str], str]]:
    """(hierarchy, controllers, path) of the groups that this process is in."""
    with open("/proc/self/cgroup") as file:
        rows = [line.strip().split(":", 2) for line in file]
    return [(number, names.split(",") if names else [], path) for number, names, path in rows]


def _make(parent: str, name: str) -> str:
    """A new group's folder; groups of processes that were killed before they cleared up go."""
    for old in os.listdir(parent):
        owner = old.removeprefix(PREFIX).split("-")[0]
        if old.startswith(PREFIX) and not os.path.exists(f"/proc/{owner}"):
            try:
                os.rmdir(os.path.join(parent, old))
            except OSError:
                pass  # its processes are still ending
    folder = os.path.join(parent.rstrip("/"), name)
    os.mkdir(folder)
    return folder


def _write(folder: str, file: str, value: str) -> None:
    with open(os.path.join(folder, file), "w") as out:
        out.write(value)
