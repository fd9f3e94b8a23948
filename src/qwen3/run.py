"""The command line of every experiment file, which ends with `main(stage.run, CONFIG)`.

    python experiments/NAME.py --workdir DIR [--set a.b=c ...]

Exit codes: 0 done; 42 stopped by SIGTERM, at whatever moment, or by Ctrl-C while it trained, and
saved: start it again; 2 a wrong setting; 1 an error (one line where the workdir cannot be used).
Of several processes, one that fails leaves at once, so that the others end within seconds. SIGUSR2
prints the stacks of all threads.
"""

from __future__ import annotations

import argparse
import faulthandler
import glob
import hashlib
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qwen3.train.stop_signals import answer_sigterm, is_script, leaving_at_once

if is_script():
    answer_sigterm()  # before jax and the stages are imported, which takes seconds

import jax

import qwen3
from qwen3 import hosts
from qwen3.config import override, to_json
from qwen3.train.run_record import versions
from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")

# Environment variables of launchers, and how many processes their value means at least.
SEVERAL_HOSTS: dict[str, Callable[[str], int]] = {
    "JAX_COORDINATOR_ADDRESS": lambda value: 2 if value else 1,
    "JAX_NUM_PROCESSES": int,
    "TPU_WORKER_HOSTNAMES": lambda value: value.count(",") + 1,
    "MEGASCALE_COORDINATOR_ADDRESS": lambda value: 2 if value else 1,
    "MEGASCALE_NUM_SLICES": int,
    "SLURM_NTASKS": int,
    "OMPI_COMM_WORLD_SIZE": int,
}
# Devices of the chips of a TPU VM.
TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


def main(
    run: Callable[[Any, str], Any], config: Any, arguments: Sequence[str] | None = None
) -> Any:
    """Read the command line, join the other hosts, and return run(config, workdir).

    `run` opens the workdir and writes config.json there. With --show the config is printed and
    None is returned.
    """
    parser = _parser(sys.modules[run.__module__].__doc__ or "")
    options = parser.parse_args(arguments)
    try:
        config = override(config, options.set)
    except ValueError as error:
        parser.error(str(error))
    if options.show:
        print(to_json(config))
        return None
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    faulthandler.register(signal.SIGUSR2, file=sys.__stderr__ or 2, all_threads=True)
    hosts.count_compilation()
    with leaving_at_once():
        use_compile_cache()
        timeouts = {
            "heartbeat_timeout_seconds": options.heartbeat_timeout,
            "initialization_timeout": options.start_timeout,
            "shutdown_timeout_seconds": options.shutdown_timeout,
        }
        try:
            join_hosts(options.distributed, **timeouts)
            refuse_missing_devices()
            compare_hosts(config, options.workdir)
            return run(config, options.workdir)
        except Exception as error:
            hosts.last_words(error, 1)
            line = ""
            if isinstance(error, WorkdirError):
                line = f"{parser.prog}: {' '.join(str(error).split())}\n"
            if jax.distributed.is_initialized():
                _leave_at_once(error, line)
            if line:
                parser.exit(1, line)
            raise


def _leave_at_once(error: Exception, line: str) -> NoReturn:
    """End this process of several: Python's own way out waits for peers that wait for this one."""
    if line:
        sys.stderr.write(line)
    else:
        log.error("process %d fails", jax.process_index(), exc_info=error)
    hosts.tell_peers(error)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="local or gs://; goes on where it stands")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change a setting; repeatable"
    )
    parser.add_argument("--show", action="store_true", help="print the config and leave")
    parser.add_argument(
        "--distributed", action="store_true", help="join the other hosts, also where unasked"
    )
    timeouts = parser.add_argument_group("several hosts, seconds")
    for name, seconds, what in (
        ("heartbeat", 30, "without a sign of a host until all are ended"),
        ("start", 900, "to wait for all hosts at the start (slices boot minutes apart: 3600)"),
        ("shutdown", 120, "to wait for all hosts at the end"),
    ):
        timeouts.add_argument(f"--{name}-timeout", type=int, default=seconds, help=what)
    return parser


def use_compile_cache() -> None:
    """Keep compiled programs between runs, where JAX_COMPILATION_CACHE_DIR says, or at home."""
    # jax defines its settings at run time, unseen by a type checker.
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qwen3" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def join_hosts(always: bool = False, **timeouts: Any) -> None:
    """jax.distributed if the environment tells of several hosts, or `always`.

    JAX_COORDINATOR_ADDRESS comes with JAX_NUM_PROCESSES and JAX_PROCESS_ID; on TPU pods and under
    Slurm or Open MPI JAX finds the rest by itself. timeouts: of `jax.distributed.initialize`.
    """
    if (expected_processes() == 1 and not always) or jax.distributed.is_initialized():
        return
    jax.distributed.initialize(
        num_processes=_number("JAX_NUM_PROCESSES"),
        process_id=_number("JAX_PROCESS_ID"),
        **timeouts,
    )
    hosts.end_with_peers()
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def expected_processes() -> int:
    """How many processes the environment tells of, at least."""
    told = (means(os.environ[name]) for name, means in SEVERAL_HOSTS.items() if name in os.environ)
    return max([1, *told])


def refuse_missing_devices() -> None:
    """Raise RuntimeError where this process would train alone, or beside the TPU it should use."""
    expected, count = expected_processes(), jax.process_count()
    if count < expected:
        raise RuntimeError(f"the environment tells of {expected} processes, and {count} joined")
    if count > 1 and not jax.distributed.is_initialized():
        raise RuntimeError(
            f"JAX sees the devices of {count} hosts, which have not joined: give --distributed"
        )
    wanted = os.environ.get("JAX_PLATFORMS", "").partition(",")[0]
    chips = [device for pattern in TPU_DEVICES for device in glob.glob(pattern)]
    if jax.default_backend() == "cpu" and wanted != "cpu" and (chips or wanted):
        missing = f"{len(chips)} TPU chips are here" if chips else f"JAX_PLATFORMS says {wanted}"
        raise RuntimeError(
            f"JAX fell back to the CPU, though {missing}: is another process holding the chips, or "
            "libtpu missing? To train on the CPU, set JAX_PLATFORMS=cpu"
        )


def compare_hosts(config: Any, workdir: str) -> None:
    """Raise ValueError naming the hosts whose config, workdir, code or versions differ."""
    if jax.process_count() == 1:
        return
    code = hashlib.sha256()
    for file in sorted(Path(qwen3.__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    settings = hashlib.sha256(to_json(config).encode()).hexdigest()[:16]
    values = {"config": settings, "workdir": workdir, "code": code.hexdigest()[:16]}
    hosts.assert_equal({**values, "python": platform.python_version(), **versions()})


def _number(variable: str) -> int | None:
    """An environment variable's number, None where it is not set."""
    return int(os.environ[variable]) if variable in os.environ else None
