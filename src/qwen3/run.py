"""`main(stage.run, CONFIG)`: what every experiment file ends with.

    python experiments/NAME.py --workdir DIR [--set a.b=c ...]

Exit codes: 0 done; 42 stopped by a signal and saved, start it again; 2 a wrong setting; 1 an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from qwen3.config import override, to_json

log = logging.getLogger("qwen3")

# Environments in which more than one process was started: variable -> does its value say so?
SEVERAL_HOSTS = {
    "JAX_COORDINATOR_ADDRESS": bool,
    "TPU_WORKER_HOSTNAMES": lambda value: "," in value,
    "MEGASCALE_COORDINATOR_ADDRESS": bool,
    "SLURM_NTASKS": lambda value: int(value) > 1,
    "OMPI_COMM_WORLD_SIZE": lambda value: int(value) > 1,
}


def main(
    run: Callable[[Any, str], Any], config: Any, arguments: Sequence[str] | None = None
) -> Any:
    """Read the command line, join the other hosts, and return run(config, workdir).

    `run` opens the workdir and writes config.json there.
    """
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="local or gs://; goes on where it stands")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="change a setting; repeatable"
    )
    parser.add_argument("--show", action="store_true", help="print the config and leave")
    parser.add_argument(
        "--distributed", action="store_true", help="join the other hosts, also where unasked"
    )
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
    use_compile_cache()
    join_hosts(options.distributed)
    return run(config, options.workdir)


def use_compile_cache() -> None:
    """Keep compiled programs between runs, where JAX_COMPILATION_CACHE_DIR says, or at home."""
    if not jax.config.jax_compilation_cache_dir:
        folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qwen3" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def join_hosts(asked: bool = False) -> None:
    """jax.distributed where the environment tells of several hosts, or when asked.

    JAX_COORDINATOR_ADDRESS comes with JAX_NUM_PROCESSES and JAX_PROCESS_ID; on TPU pods and under
    Slurm or Open MPI JAX finds the rest by itself.
    """
    told = any(says(os.environ[name]) for name, says in SEVERAL_HOSTS.items() if name in os.environ)
    if not (told or asked) or jax.distributed.is_initialized():
        return
    given = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    numbers = {key: int(os.environ[name]) for key, name in given.items() if name in os.environ}
    jax.distributed.initialize(**numbers)
    log.info("process %d of %d", jax.process_index(), jax.process_count())
