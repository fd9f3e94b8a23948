"""Losses over Qwen3's vocabulary: naive (all logits at once) against chunked, time and memory.

Measured are value and gradient by hidden states and head, fp32: reverse KL to a teacher, next-token
cross-entropy, and a policy-gradient-like function of log-probs. Each side has a process of its own;
both are warm, then take turns. "peak" is the highest resident memory of one call in a further
process, over what it held after compiling, with arguments in place (there malloc gives freed pages
back at once, or they would count too).

Command:   python experiments/bench_losses.py
Hardware:  any CPU with Linux; about 16 GB of memory and ten minutes on one core.
Expected:  the divergence at 1/8.8 of the memory and 0.93 of the time (goal: 1/8 at 1.05, or 1/20 at
           1.3; docs/log/2026-11-22-chunked-divergence.md).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

# Before glibc starts in the children: keep freed pages. Without this page faults dominate.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "40000000000",
    "MALLOC_ARENA_MAX": "1",
}
EXACT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
SIDES = ("naive", "chunked")
CASES = ("divergence", "cross_entropy", "log_probs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=None, help="rows at once, else the library's")
    parser.add_argument("--core", type=int, default=None, help="pin both sides to this core")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child, arguments)
    print(f"V {arguments.vocab}, {arguments.tokens} tokens, hidden {arguments.hidden}, fp32")
    row = "{:14} {:8} {:>8} {:>8} {:>8} {:>9} {:>11}".format
    print(row("case", "side", "median s", "min s", "cpu s", "peak MB", "XLA temp MB"))
    for case in arguments.cases:
        report(case, measure(case, arguments), row)


def measure(case: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """{side: facts}: memory of one call each, then times, the sides taking turns."""
    peaks = {side: finish(start(case, side, EXACT))["peak_mb"] for side in SIDES}
    processes = {side: start(case, side, ALLOCATOR) for side in SIDES}
    for _ in range(arguments.repeats):
        for process in processes.values():
            print("go", file=process.stdin, flush=True)
            process.stdout.readline()  # "done"
    return {side: finish(process) | {"peak_mb": peaks[side]} for side, process in processes.items()}


def start(case: str, side: str, allocator: Mapping[str, str]) -> subprocess.Popen:
    """A child that has compiled its side and called it once."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", case, side]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    process = subprocess.Popen(
        command,
        env={**ours, "JAX_PLATFORMS": "cpu", **allocator},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"the {side} side of {case} ended with status {process.wait()}")
    return process


def finish(process: subprocess.Popen) -> dict[str, Any]:
    """The facts that a child prints when it is stopped."""
    return json.loads(process.communicate("stop\n")[0])


def report(case: str, sides: dict[str, dict[str, Any]], row: Callable[..., str]) -> None:
    for side, facts in sides.items():
        times = facts["seconds"]
        numbers = statistics.median(times), min(times), statistics.median(facts["cpu_seconds"])
        sizes = facts["peak_mb"], facts["temp_mb"]
        print(row(case, side, *(f"{n:.2f}" for n in numbers), *(f"{n:.0f}" for n in sizes)))
    naive, chunked = sides["naive"], sides["chunked"]
    pairs = zip(chunked["seconds"], naive["seconds"], strict=True)
    print(
        f"{case:14} chunked / naive: time {statistics.median(a / b for a, b in pairs):.2f} (median "
        f"of pairs), peak 1/{naive['peak_mb'] / chunked['peak_mb']:.1f}, XLA temp "
        f"1/{naive['temp_mb'] / chunked['temp_mb']:.1f}, values differ by "
        f"{abs(chunked['value'] / naive['value'] - 1):.0e}, gradients by "
        f"{abs(chunked['slopes'] / naive['slopes'] - 1):.0e}",
        flush=True,
    )


def child(case: str, side: str, arguments: argparse.Namespace) -> None:
    """Compile, warm up, then one timed call per line of input; facts as JSON at the end."""
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    import jax

    function, operands = jax.block_until_ready(build(case, side, arguments))
    compiled = jax.jit(jax.value_and_grad(function, (0, 1))).lower(*operands).compile()
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # forget the compiler's peak
    before = resident("VmRSS")
    facts: dict[str, Any] = {"seconds": [], "cpu_seconds": []}
    value, slopes = jax.block_until_ready(compiled(*operands))
    facts["value"] = float(value)
    facts["slopes"] = float(sum(jax.numpy.vdot(slope, slope) for slope in slopes))
    print("ready", flush=True)
    while sys.stdin.readline().strip() == "go":
        value = slopes = None  # as a step would: the last gradients are gone
        wall, cpu = time.perf_counter(), time.process_time()
        value, slopes = jax.block_until_ready(compiled(*operands))
        facts["seconds"].append(time.perf_counter() - wall)
        facts["cpu_seconds"].append(time.process_time() - cpu)
        print("done", flush=True)
    facts["peak_mb"] = resident("VmHWM") - before
    facts["temp_mb"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    print(json.dumps(facts))


def resident(field: str) -> float:
    """This process's VmRSS (now) or VmHWM (highest), in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def build(
    case: str, side: str, arguments: argparse.Namespace
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """(function of hidden_MD, head_VD and constants; its operands)."""
    import jax
    import jax.numpy as jnp

    from qwen3.ops import chunked
    from qwen3.ops.chunked_divergence import divergence

    m, d, v, chunk = arguments.tokens, arguments.hidden, arguments.vocab, arguments.chunk
    keys = jax.random.split(jax.random.key(0), 6)
    hidden, teacher = (jax.random.normal(key, (m, d)) for key in keys[:2])
    head, teacher_head = (0.05 * jax.random.normal(key, (v, d)) for key in keys[2:4])
    targets = jax.random.randint(keys[4], (m,), 0, v)
    weights = jax.random.uniform(keys[5], (m,))

    def log_softmax(hidden, head):
        return jax.nn.log_softmax(hidden @ head.T, axis=-1)

    def target_log_probs(hidden, head, targets):
        return jnp.take_along_axis(log_softmax(hidden, head), targets[:, None], axis=1)[:, 0]

    def naive_divergence(hidden, head, teacher, teacher_head, targets, weights):
        log_s, log_t = log_softmax(hidden, head), log_softmax(teacher, teacher_head)
        return jnp.sum(weights * jnp.sum(jnp.exp(log_s) * (log_s - log_t), axis=-1))

    def naive_cross_entropy(hidden, head, targets, weights):
        return -jnp.sum(weights * target_log_probs(hidden, head, targets))

    def naive_log_probs(hidden, head, targets, weights):
        return jnp.sum(jnp.exp(weights * target_log_probs(hidden, head, targets)))

    def chunked_log_probs(hidden, head, targets, weights):
        logp, _ = chunked.log_probs(hidden, head, targets, chunk=chunk)
        return jnp.sum(jnp.exp(weights * logp))

    functions = {
        ("divergence", "naive"): naive_divergence,
        ("divergence", "chunked"): lambda *x: divergence(*x, chunk=chunk)[0],
        ("cross_entropy", "naive"): naive_cross_entropy,
        ("cross_entropy", "chunked"): lambda *x: chunked.cross_entropy(*x, chunk=chunk)[0],
        ("log_probs", "naive"): naive_log_probs,
        ("log_probs", "chunked"): chunked_log_probs,
    }
    both = (hidden, head), (targets, weights)
    operands = (*both[0], teacher, teacher_head, *both[1])
    return functions[case, side], operands if case == "divergence" else (*both[0], *both[1])


if __name__ == "__main__":
    main()
