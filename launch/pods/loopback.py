"""A pod on this machine: every host is a folder and its processes. No cloud, no cost."""

import socket
import sys
from pathlib import Path

from pods.command import Answer, State, on_all
from pods.run import Run


def up(run: Run) -> None:
    run.command(["mkdir", "-p", *(f"{run.folder}/hosts/{host}" for host in run.hosts)])
    if not run.dry:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            Path(run.folder, "hosts", "port").write_text(str(free.getsockname()[1]))


def state(run: Run) -> State:
    gone = [host for host in run.hosts if not Path(run.folder, "hosts", host).is_dir()]
    if gone == run.hosts:
        return State("absent")
    return State("lost", f"hosts {', '.join(gone)} are gone") if gone else State("active")


def everywhere(run: Run, line: str, timeout: float) -> dict[str, str]:
    """Run a line on every host at once; host -> what its worker.sh said."""
    port = Path(run.folder, "hosts", "port")

    def on(host: str) -> Answer:
        env = {
            "HOME": f"{run.folder}/hosts/{host}",
            "QWEN3_SLICE": host.partition(".")[0],
            "QWEN3_HOST": host.partition(".")[2],
            "PYTHON": sys.executable,
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port.read_text() if port.exists() else 0}",
            "JAX_NUM_PROCESSES": str(len(run.hosts)),
            "JAX_PROCESS_ID": str(run.hosts.index(host)),
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={run.chips // len(run.hosts)}",
        }
        return run.command(["bash", "-c", f"cd && {line}"], timeout, **env)

    return on_all(on, run.hosts)


def copy(run: Run, file: Path) -> None:
    for host in run.hosts:
        run.command(["cp", str(file), f"{run.folder}/hosts/{host}"])


def down(run: Run) -> None:
    everywhere(run, f"bash qwen3/{run.RUN}/code/launch/worker.sh kill", 60)
    run.command(["rm", "-rf", f"{run.folder}/hosts"])


def billed(run: Run) -> list[tuple[str, str, str]]:
    return []  # nothing is
