"""Hosts of a pod as processes of this machine, which join through jax.distributed on loopback."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 3600  # for a run to end, on a machine that others load


class Hosts:
    """`count` processes of one program, each of emulated devices; their output is in files."""

    def __init__(self, folder, program, *words, count=2, devices=2, environment=None, each=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = f"--xla_force_host_platform_device_count={devices} {os.environ['QUICK_COMPILE']}"
        common = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags} | (environment or {})
        self.folders, self.processes = [], []
        for number in range(count):
            self.folders.append(folder / f"host{number}")
            self.folders[-1].mkdir(parents=True, exist_ok=True)
            own = common | {"QWEN3_HOST_DIR": str(self.folders[-1])}
            if count > 1:
                own |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
                own |= {"JAX_PROCESS_ID": str(number)}
            extra = each[number] if each else ()
            with (self.folders[-1] / "log").open("wb") as log:
                command = [sys.executable, str(HERE / program), *words, *extra]
                self.processes.append(subprocess.Popen(command, env=own, stdout=log, stderr=log))

    def codes(self, seconds=SECONDS):
        """Exit codes of all, once the last has ended."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        finally:
            self.kill()

    def text(self, number):
        return (self.folders[number] / "log").read_text()

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()
