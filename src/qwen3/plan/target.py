"""The devices of a TPU slice that is not attached, as the TPU compiler (libtpu) describes them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax

from qwen3.plan.chips import chip_of, one_slice, shapes

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
def no_cache() -> Iterator[None]:
    """Turn the persistent compilation cache off: it cannot read programs for absent devices."""
    # jax defines its settings at run time, unseen by a type checker.
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


@cache
def devices(topology: str) -> tuple[Any, ...]:
    """The devices of a topology such as "v5p:4x4x4", or "v5p:4x4x4*2" for two slices.

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
        with _silent_stderr():
            name, slices = one_slice(topology)
            options: dict[str, Any] = {"wrap": chip.wrap(name.partition(":")[2])}
            if chip.config:
                options["chip_config_name"] = chip.config
            if slices > 1:
                options["num_slices"] = slices
            return tuple(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"there is no topology {topology!r} ({reason}); {chip.name} slices are {shapes(chip)}"
        ) from None


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """libtpu complains on stderr that this is no TPU host; real errors come as exceptions."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
