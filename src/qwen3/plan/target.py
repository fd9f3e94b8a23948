"""A TPU slice that is not there: its devices as the TPU compiler knows them, and a mesh on them."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from typing import Any

import jax

from qwen3.plan.chips import chip_of, shapes

# Without these, libtpu looks for a TPU host's metadata server, and for chips that it may not share.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def prepare() -> None:
    """Set what libtpu reads when it is loaded; call before jax starts a backend."""
    for name, value in ENVIRONMENT.items():
        if name == "JAX_PLATFORMS":
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def no_cache():
    """Without the persistent compilation cache, which cannot read programs for absent devices."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


@cache
def devices(topology: str) -> tuple[Any, ...]:
    """The devices of a topology such as "v5p:4x4x4".

    Raises ValueError for one that does not exist, ImportError where libtpu is not installed.
    """
    chip = chip_of(topology)
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "planning needs the TPU compiler, libtpu: pip install 'qwen3[tpu]'"
        ) from error
    from jax.experimental import topologies

    try:
        with _quiet():
            wrap = chip.wrap(topology.partition(":")[2])
            return tuple(topologies.get_topology_desc(topology, "tpu", wrap=wrap).devices)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"there is no topology {topology!r} ({reason}); {chip.name} slices are {shapes(chip)}"
        ) from None


@contextlib.contextmanager
def _quiet():
    """libtpu complains on stderr that this is no TPU host; what is wrong comes as an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
