"""GKE: a JobSet, queued by Kueue, through xpk; its containers hold the commit and start alone."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pods.code import archive, commit
from pods.command import Answer, Refused, State, markers
from pods.run_file import Run

CAPACITY = {"spot": "--spot", "on-demand": "--on-demand", "flex-start": "--flex"}


def up(run: Run) -> None:
    """Build the commit's image, push it, submit the workload."""
    image, code = f"{run.IMAGE}:{commit(run)}", f"qwen3/{run.RUN}/code-{commit(run)}"
    with tempfile.TemporaryDirectory() as folder:
        context = shlex.quote(str(archive(run, folder)))
        build = f"docker build --file=launch/Dockerfile --build-arg=CODE={code} --tag={image} -"
        _do(run, ["bash", "-c", f"{build} < {context}"])
    _do(run, ["docker", "push", image])
    options = [
        f"--workload={run.RUN}",
        f"--tpu-type={run.TYPE}",
        f"--num-slices={run.SLICES}",
        f"--docker-image={image}",
        f"--command=exec bash /root/{code}/launch/worker.sh run",
        "--max-restarts=50",  # after exit codes 42 and 127 to 255
        f"--termination-grace-period-seconds={run.STOP_SECONDS}",
        CAPACITY.get(run.CAPACITY, f"--reservation={run.RESERVATION}"),
    ]
    _do(run, [*_xpk(run, "create"), *options])


def state(run: Run) -> State:
    answer = run.command(_kubectl(run, "get", "jobset", run.RUN, "--output=json"))
    if "NotFound" in answer.err or run.dry:
        return State("absent")
    for condition in json.loads(_said(answer).out).get("status", {}).get("conditions", []):
        if condition["type"] in ("Failed", "Completed") and condition["status"] == "True":
            return State("lost", f"{condition['type']} {condition.get('message', '')}".strip())
    pods = _pods(run)
    return State("active" if len(pods) == len(run.hosts) else "waiting", f"{len(pods)} pods run")


def everywhere(run: Run, line: str, timeout: float) -> dict[str, str]:
    """Run a line in every container at once; host -> what its worker.sh said."""

    def on(pod: dict[str, Any]) -> str:
        argv = ["exec", pod["metadata"]["name"], "--container=jax-tpu", "--", "bash", "-c"]
        return run.command(_kubectl(run, *argv, f"cd && {line}"), timeout).out

    with ThreadPoolExecutor(64) as pool:
        return markers("\n".join(pool.map(on, _pods(run))))


def copy(run: Run, file: Path) -> None:
    """Refused if the containers hold another commit than the one in `file`: they cannot change."""
    images = {pod["spec"]["containers"][0]["image"] for pod in _pods(run)}
    if not run.dry and images != {f"{run.IMAGE}:{commit(run)}"}:
        raise Refused(f"the workload runs {', '.join(sorted(images))}: pod.py down, then up")


def down(run: Run) -> None:
    _do(run, [*_xpk(run, "delete"), f"--workload={run.RUN}", "--force"])


def billed(run: Run) -> list[tuple[str, str, str]]:
    """Every JobSet; the cluster's machines are billed by their node pools, not by these."""
    answer = run.command(_kubectl(run, "get", "jobset", "--output=json"))
    names = [
        item["metadata"]["name"] for item in json.loads(_said(answer).out or "{}").get("items", [])
    ]
    return [(name, name, "JobSet") for name in names]


def _pods(run: Run) -> list[dict[str, Any]]:
    """Those that run."""
    label = f"--selector=xpk.google.com/workload={run.RUN}"
    answer = _said(run.command(_kubectl(run, "get", "pods", label, "--output=json")))
    pods = json.loads(answer.out or "{}").get("items", [])
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


def _kubectl(run: Run, *argv: str) -> list[str]:
    """xpk's clusters are regional, and `get-credentials` names contexts so."""
    region = run.ZONE.rpartition("-")[0]
    return ["kubectl", f"--context=gke_{run.PROJECT}_{region}_{run.CLUSTER}", *argv]


def _xpk(run: Run, verb: str) -> list[str]:
    place = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", f"--cluster={run.CLUSTER}"]
    return ["xpk", "workload", verb, *place]


def _do(run: Run, argv: Sequence[str]) -> None:
    _said(run.command(argv, 3600))


def _said(answer: Answer) -> Answer:
    """The answer of a command that went well; else Refused with its last line."""
    if answer.code != 0:
        raise Refused(([*answer.out.splitlines(), *answer.err.splitlines()] or ["no answer"])[-1])
    return answer
