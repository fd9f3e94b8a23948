"""Before an attempt: are this host, its chips and its peers fit to train? A line, and exit code 3.

All hosts run it at once and join, so that one that is missing, has other versions, fewer chips, a
full disk or a wrong clock is named now, and not by a hang of all.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def main() -> None:
    """One collective over all devices; then every host looks at what all know of themselves."""
    name, expected = os.environ["QWEN3_NAME"], int(os.environ["CHIPS"])
    if int(os.environ["HOSTS"]) > 1:
        variables = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        numbers: dict[str, Any] = {
            k: int(os.environ[v]) for k, v in variables.items() if v in os.environ
        }
        jax.distributed.initialize(**numbers, initialization_timeout=240)
    # Of v4 and tpu7x, two devices may share a chip and its coordinates.
    chips = {str(getattr(device, "coords", device.id)) for device in jax.local_devices()}
    free = shutil.disk_usage(os.environ["QWEN3_HOST_DIR"]).free
    if jax.default_backend() != os.environ["JAX_PLATFORMS"].partition(",")[0]:
        raise RuntimeError(f"host {name} runs on {jax.default_backend()}")
    if len(chips) != expected:
        raise RuntimeError(f"host {name} sees {len(chips)} chips of {expected}")
    if free < 2e9:
        raise RuntimeError(f"host {name} has {free / 1e9:.1f} GB of disk left")
    words = f"{name} python {sys.version.split()[0]} jax {jax.__version__} numpy {np.__version__}"
    letters = np.frombuffer(words.ljust(100).encode()[:100], np.uint8)
    multihost_utils.sync_global_devices("health")
    clocks, rows = multihost_utils.process_allgather((np.float32(time.time() % 1e5), letters))
    hosts = [bytes(row).decode().strip().partition(" ") for row in rows.reshape(-1, 100)]
    if len({versions for _, _, versions in hosts}) > 1:
        raise RuntimeError("versions differ: " + "; ".join(" ".join(host) for host in hosts))
    if np.ptp(clocks) > 5:
        raise RuntimeError(f"clocks of the hosts differ by {np.ptp(clocks):.0f} s")
    print(f"healthy: {len(hosts)} hosts, {jax.device_count()} devices; {words}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"HealthError: {error}", flush=True)
        os._exit(3)  # not through the barrier at Python's end, which the peers may never reach
