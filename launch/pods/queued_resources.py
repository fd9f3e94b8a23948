"""TPU VMs through queued resources: a request of the run's name, nodes labelled with it."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

from pods import types
from pods.command import Answer, NotNow, Refused, State, markers
from pods.run_file import Run

DEAD = ("FAILED", "SUSPENDED", "SUSPENDING")  # such requests hold quota until they are deleted
CAPACITY = {"spot": ["--spot"], "on-demand": [], "reserved": ["--reserved"]}
SSH = {"external": [], "internal": ["--internal-ip"], "iap": ["--tunnel-through-iap"]}
# What gcloud says -> what is said to the user, and whether it may go well later.
ADVICE = {
    "active account|[Rr]eauthentication|invalid_grant": (
        Refused,
        "no credentials: gcloud auth login",
    ),
    "SERVICE_DISABLED|not been used": (Refused, "gcloud services enable tpu.googleapis.com"),
    "[Qq]uota|RESOURCE_EXHAUSTED": (Refused, "no quota for this kind of chip, capacity and zone"),
    "more capacity|[Ss]tockout|STOCKOUT|POOL_EXHAUSTED": (NotNow, "no capacity in the zone"),
}


def up(run: Run) -> None:
    """Ask for the slices, once nothing speaks against it."""
    if not _json(run, "accelerator-types", "list", [f"--filter=type={run.TYPE}"]) and not run.dry:
        raise Refused(f"ZONE={run.ZONE} does not have TYPE={run.TYPE}")
    requests = _json(run, "queued-resources", "list") or []
    dead = [_name(request) for request in requests if request["state"]["state"] in DEAD]
    if dead:
        argv = shlex.join(_argv(run, "queued-resources", "delete", ["--force"], dead[0]))
        raise Refused(f"dead requests hold your quota: {', '.join(dead)}; {argv}")
    network, _, subnetwork = run.NETWORK.partition("/")
    options = {
        "accelerator-type": run.TYPE,
        "runtime-version": types.parse(run.TYPE).generation.runtime,
        "node-id": run.RUN if run.SLICES == 1 else "",
        "node-count": run.SLICES if run.SLICES > 1 else "",
        "node-prefix": run.RUN if run.SLICES > 1 else "",
        "labels": f"qwen3-run={run.RUN}",
        "scopes": "https://www.googleapis.com/auth/cloud-platform",
        "service-account": run.SERVICE_ACCOUNT,
        "network": network,
        "subnetwork": subnetwork,
        "valid-until-duration": f"{run.WAIT_HOURS * 3600:.0f}s",
    }
    flags = [f"--{option}={value}" for option, value in options.items() if value]
    flags += ["--async"] if run.SSH == "external" else ["--async", "--internal-ips"]
    if run.CAPACITY == "flex-start":
        hours = f"{run.MAX_HOURS or 24:g}h"
        flags += ["--provisioning-model=flex-start", f"--max-run-duration={hours}"]
    elif run.RESERVATION:
        _check_reservation(run)
        flags += [f"--reservation={run.RESERVATION}"]
    else:
        flags += CAPACITY[run.CAPACITY]
    alpha = run.CAPACITY == "flex-start" or bool(run.RESERVATION)
    _said(run.command(_argv(run, "queued-resources", "create", flags, run.RUN, alpha=alpha)))


def state(run: Run) -> State:
    """Of the request and its nodes; Refused if the name is another pod's."""
    answer = run.command(_argv(run, "queued-resources", "describe", ["--format=json"], run.RUN))
    if "NOT_FOUND" in answer.err or run.dry:
        return State("absent")
    request = json.loads(_said(answer).out)
    spec = request["tpu"]["nodeSpec"][0]["node"]
    if (spec["acceleratorType"], spec.get("labels", {}).get("qwen3-run")) != (run.TYPE, run.RUN):
        raise Refused(f"RUN={run.RUN} is the name of another request, {spec['acceleratorType']}")
    word = request["state"]["state"]
    if word in DEAD:
        failure = request["state"].get("failedData", {}).get("error", {}).get("message", "")
        by = request["state"].get("stateInitiator", "SERVICE")
        return State("lost", f"{word} {failure or f'by {by}'}".strip())
    if word != "ACTIVE":
        return State("waiting", word)
    nodes = _json(run, "tpu-vm", "list", [f"--filter=labels.qwen3-run={run.RUN}"])
    hosts = sum(len(node["networkEndpoints"]) for node in nodes if node["state"] == "READY")
    words = [f"{_name(node)} is {node['state']}" for node in nodes if node["state"] != "READY"]
    if hosts == len(run.hosts):
        return State("active")
    starting = any(word.endswith(("CREATING", "STARTING")) for word in words)
    return State("waiting" if starting else "lost", ", ".join(words) or f"{hosts} hosts are there")


def everywhere(run: Run, line: str, timeout: float) -> dict[str, str]:
    """Run a line on every host at once; host -> what its worker.sh said."""
    flags = ["--node=all", "--worker=all", "--batch-size=all", f"--command={line}"]
    return markers(run.command(_argv(run, "queued-resources", "ssh", flags, run.RUN), timeout).out)


def copy(run: Run, file: Path) -> None:
    """Copy to every host's home; whether it came is seen when it is unpacked."""
    flags = ["--node=all", "--worker=all", "--batch-size=all"]
    run.command(
        _argv(run, "queued-resources", "scp", flags, str(file), f"{run.RUN}:"), run.CALL_SECONDS
    )


def down(run: Run) -> None:
    """Delete request and nodes, and see them gone."""
    delete = _argv(run, "queued-resources", "delete", ["--force", "--async"], run.RUN)
    if "NOT_FOUND" not in (answer := run.command(delete)).err:
        _said(answer)
    deadline = time.monotonic() + 1200
    while left := [name for name, owner, _ in billed(run) if owner == run.RUN]:
        if time.monotonic() > deadline:
            raise NotNow(f"still there and billed: {', '.join(left)}; pod.py down once more")
        time.sleep(min(run.POLL_SECONDS, 10))


def billed(run: Run) -> list[tuple[str, str, str]]:
    """Every request and node of the zone: (name, run that its label names or "", what it is)."""
    rows = []
    for request in _json(run, "queued-resources", "list"):
        node = request["tpu"]["nodeSpec"][0]["node"]
        words = f"request, {node['acceleratorType']}, {request['state']['state']}"
        rows.append((_name(request), node.get("labels", {}).get("qwen3-run", ""), words))
    for node in _json(run, "tpu-vm", "list"):
        words = f"node, {node['acceleratorType']}, {node['state']}"
        rows.append((_name(node), node.get("labels", {}).get("qwen3-run", ""), words))
    return rows


def _check_reservation(run: Run) -> None:
    """Refused unless the reservation exists and has not ended."""
    place = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", "--format=json"]
    name = run.RESERVATION.rpartition("/")[2]
    answer = run.command(["gcloud", "compute", "reservations", "describe", name, *place])
    if run.dry:
        return
    about = json.loads(answer.out) if answer.code == 0 else {"status": "not there"}
    ended = about.get("deleteAtTime", "9999") < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    if ended or about["status"] != "READY":
        end = f", ended {about['deleteAtTime']}" if ended else ""
        raise Refused(f"RESERVATION={name} in {run.ZONE} is {about['status']}{end}")


def _argv(
    run: Run, group: str, verb: str, flags: list[str], *names: str, alpha: bool = False
) -> list[str]:
    track = ["alpha", "compute"] if alpha else ["compute"]
    flags = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", "--quiet", *flags]
    if verb in ("ssh", "scp"):
        flags += ["--strict-host-key-checking=no", *SSH[run.SSH]]
    return ["gcloud", *track, "tpus", group, verb, *names, *flags]


def _json(run: Run, group: str, verb: str, flags: list[str] = []) -> list[dict[str, Any]]:  # noqa: B006
    answer = _said(run.command(_argv(run, group, verb, ["--format=json", *flags])))
    return json.loads(answer.out or "[]")


def _said(answer: Answer) -> Answer:
    """The answer, if it is none of trouble; else Refused or NotNow, in one line."""
    if answer.code == 0:
        return answer
    line = (answer.err.strip().splitlines() or ["gcloud did not answer in time"])[-1].strip()
    for pattern, (kind, advice) in ADVICE.items():
        if re.search(pattern, answer.err):
            raise kind(f"{advice} ({line})")
    raise (NotNow if answer.code is None else Refused)(line)


def _name(resource: dict[str, Any]) -> str:
    return resource["name"].rpartition("/")[2]
