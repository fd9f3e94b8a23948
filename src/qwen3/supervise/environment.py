"""The command and the environment of a training process on a pod, from the run's settings."""

from __future__ import annotations

import shlex
import subprocess

from qwen3.supervise.pod_settings import PodSettings

# As published for training with this libtpu (MaxText, tpu-recipes); gains were not measured here.
OVERLAP = """
    xla_tpu_enable_data_parallel_all_reduce_opt=true xla_enable_async_all_gather=true
    xla_tpu_data_parallel_opt_different_sized_ops=true xla_tpu_overlap_compute_collective_tc=true
    xla_tpu_enable_async_collective_fusion=true
    xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    xla_tpu_enable_async_collective_fusion_multiple_steps=true"""
MEGACORE = """
    xla_tpu_megacore_fusion_allow_ags=false xla_enable_async_collective_permute=true
    xla_tpu_enable_ag_backward_pipelining=true"""
SCOPED = " xla_tpu_scoped_vmem_limit_kib=98304"
# By chip: LIBTPU_INIT_ARGS, without dashes.
FLAGS = {"v5e": OVERLAP, "v5p": OVERLAP + MEGACORE, "v6e": OVERLAP + SCOPED}


def command(settings: PodSettings) -> list[str]:
    """The program of the run and its arguments."""
    words = [*shlex.split(settings.ENTRY), "--workdir", f"{settings.folder}/work"]
    return [*words, "--distributed"] if len(settings.hosts) > 1 else words


def environment(settings: PodSettings) -> dict[str, str]:
    """Variables by name, those that the run's ENV sets among them."""
    flags = FLAGS.get(settings.slice_type.topology.partition(":")[0], "").split()
    if settings.SLICES > 1:
        flags.append("megascale_abort_on_hangs=true")  # a silent hang becomes an exit
    return {
        "LIBTPU_INIT_ARGS": " ".join(f"--{flag}" for flag in flags),
        "JAX_PLATFORMS": "cpu" if settings.BACKEND == "loopback" else "tpu,cpu",
        "JAX_COMPILATION_CACHE_DIR": f"{settings.BUCKET.rstrip('/')}/cache",
        **settings.variables,
    }


def secrets(settings: PodSettings) -> dict[str, str]:
    """Values of the run's SECRETS from Secret Manager. Raises RuntimeError naming the entry."""
    values = {}
    for variable, _, entry in (pair.partition("=") for pair in settings.SECRETS.split()):
        argv = ["gcloud", "secrets", "versions", "access", "latest", f"--secret={entry}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"SECRETS: {entry} cannot be read: {done.stderr.strip()}")
        values[variable] = done.stdout
    return values
