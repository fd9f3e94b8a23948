"""GKE: a JobSet, queued by Kueue, through xpk; its containers hold the commit and start alone."""

import json
import tempfile
from pathlib import Path
from typing import Any

from pods.command import Answer, Refused, State, on_all
from pods.run import Run, archive, commit

CAPACITY = {"spot": "--spot", "on-demand": "--on-demand", "flex-start": "--flex"}


def up(run: Run) -> None:
    """Build the commit's image, push it, submit the workload."""
    image, code = f"{run.IMAGE}:{commit(run)}", f"qwen3/{run.RUN}/code-{commit(run)}"
    with tempfile.TemporaryDirectory() as folder:
        build = f"docker build --file=launch/Dockerfile --build-arg=CODE={code} --tag={image} -"
        run.command(["bash", "-c", f"{build} < '{archive(run, folder)}'"], 3600).said()
    run.command(["docker", "push", image], 3600).said()
    # The JobSet starts again after exit codes 42 and 127 to 255.
    options = (
        f"--tpu-type={run.TYPE} --num-slices={run.SLICES} --docker-image={image} --max-restarts=50 "
        f"--termination-grace-period-seconds={run.STOP_SECONDS} "
        f"{CAPACITY.get(run.CAPACITY, f'--reservation={run.RESERVATION}')}"
    )
    line = f"--command=exec bash /root/{code}/launch/worker.sh run"
    _xpk(run, "create", *options.split(), line).said()


def state(run: Run) -> State:
    answer = _kubectl(run, "get", "jobset", run.RUN, "--output=json")
    if "NotFound" in answer.err or run.dry:
        return State("absent")
    for condition in json.loads(answer.said()).get("status", {}).get("conditions", []):
        if condition["type"] in ("Failed", "Completed") and condition["status"] == "True":
            return State("lost", f"{condition['type']} {condition.get('message', '')}".strip())
    running = len(_pods(run))
    return State("active" if running == len(run.hosts) else "waiting", f"{running} pods run")


def everywhere(run: Run, line: str, timeout: float) -> dict[str, str]:
    """Run a line in every container at once; host -> what its worker.sh said."""

    def on(pod: dict[str, Any]) -> Answer:
        place = ["exec", pod["metadata"]["name"], "--container=jax-tpu"]
        return _kubectl(run, *place, "--", "bash", "-c", f"cd && {line}", timeout=timeout)

    return on_all(on, _pods(run))


def copy(run: Run, file: Path) -> None:
    """Refused if the containers hold another commit than the one in `file`: they cannot change."""
    images = {pod["spec"]["containers"][0]["image"] for pod in _pods(run)}
    if not run.dry and images != {f"{run.IMAGE}:{commit(run)}"}:
        raise Refused(f"the workload runs {', '.join(sorted(images))}: pod.py down, then up")


def down(run: Run) -> None:
    _xpk(run, "delete", "--force").said()


def billed(run: Run) -> list[tuple[str, str, str]]:
    """Every JobSet: what is billed are the cluster's node pools, which are not ours to delete."""
    items = json.loads(_kubectl(run, "get", "jobset", "--output=json").said() or "{}")
    names = [item["metadata"]["name"] for item in items.get("items", [])]
    return [(name, name, "JobSet") for name in names]


def _pods(run: Run) -> list[dict[str, Any]]:
    """Those that run."""
    label = f"--selector=xpk.google.com/workload={run.RUN}"
    pods = json.loads(_kubectl(run, "get", "pods", label, "--output=json").said() or "{}")
    return [pod for pod in pods.get("items", []) if pod["status"]["phase"] == "Running"]


def _kubectl(run: Run, *argv: str, timeout: float = 120) -> Answer:
    """xpk's clusters are regional, and `get-credentials` names contexts so."""
    context = f"gke_{run.PROJECT}_{run.ZONE.rpartition('-')[0]}_{run.CLUSTER}"
    return run.command(["kubectl", f"--context={context}", *argv], timeout)


def _xpk(run: Run, verb: str, *options: str) -> Answer:
    place = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", f"--cluster={run.CLUSTER}"]
    return run.command(["xpk", "workload", verb, f"--workload={run.RUN}", *place, *options], 1800)
