"""The command line of every experiment file, which ends with `main(stage.run, CONFIG)`.

    python experiments/NAME.py --workdir DIR [--set a.b=c ...]

Exit codes: 0 done; 42 stopped by SIGTERM, at whatever moment, or by Ctrl-C while it trained, and
saved: start it again; 2 a wrong setting; 1 an error (one line where the workdir cannot be used).
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
from qwen3.train.stop_signals import leaving_at_once
from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")

# Environment variables of launchers, and whether their value means more than one process.
SEVERAL_HOSTS: dict[str, Callable[[str], bool]] = {
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
    with leaving_at_once():
        use_compile_cache()
        join_hosts(options.distributed)
        try:
            return run(config, options.workdir)
        except WorkdirError as error:
            parser.exit(1, f"{parser.prog}: {' '.join(str(error).split())}\n")


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
    return parser


def use_compile_cache() -> None:
    """Keep compiled programs between runs, where JAX_COMPILATION_CACHE_DIR says, or at home."""
    # jax defines its settings at run time, unseen by a type checker.
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qwen3" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))


def join_hosts(always: bool = False) -> None:
    """jax.distributed if the environment tells of several hosts, or `always`.

    JAX_COORDINATOR_ADDRESS comes with JAX_NUM_PROCESSES and JAX_PROCESS_ID; on TPU pods and under
    Slurm or Open MPI JAX finds the rest by itself.
    """
    several = any(
        means_several(os.environ[name])
        for name, means_several in SEVERAL_HOSTS.items()
        if name in os.environ
    )
    if not (several or always) or jax.distributed.is_initialized():
        return
    jax.distributed.initialize(
        num_processes=_number("JAX_NUM_PROCESSES"), process_id=_number("JAX_PROCESS_ID")
    )
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def _number(variable: str) -> int | None:
    """An environment variable's number, None where it is not set."""
    return int(os.environ[variable]) if variable in os.environ else None
