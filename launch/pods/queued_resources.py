"""TPU VMs through queued resources: a request of the run's name, nodes labelled with it."""

import json
import re
import time
from pathlib import Path
from typing import Any

from pods import types
from pods.command import Answer, NotNow, Refused, State, markers
from pods.run_file import SSH, Run

QR, TPU, ALL = (
    "compute tpus queued-resources",
    "compute tpus",
    "--node=all --worker=all --batch-size=all",
)
DEAD = ("FAILED", "SUSPENDED", "SUSPENDING")  # such requests hold quota until they are deleted
CAPACITY = {"spot": "--spot", "on-demand": "", "reserved": "--reserved"}
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
    if not _list(run, f"{TPU} accelerator-types list --filter=type={run.TYPE}") and not run.dry:
        raise Refused(f"ZONE={run.ZONE} does not have TYPE={run.TYPE}")
    dead = [name for name, _, words in billed(run) if words.split()[-1] in DEAD]
    if dead:
        delete = f"gcloud {QR} delete {dead[0]} --force --project={run.PROJECT} --zone={run.ZONE}"
        raise Refused(f"dead requests hold your quota: {', '.join(dead)}; {delete}")
    track, capacity = QR, CAPACITY.get(run.CAPACITY, "")
    if run.RESERVATION:
        _check_reservation(run)
        track, capacity = f"alpha {QR}", f"--reservation={run.RESERVATION}"
    elif run.CAPACITY == "flex-start":
        hours = f"--max-run-duration={run.MAX_HOURS or 24:g}h"
        track, capacity = f"alpha {QR}", f"--provisioning-model=flex-start {hours}"
    node = f"--node-count={run.SLICES} --node-prefix={run.RUN}"
    node = node if run.SLICES > 1 else f"--node-id={run.RUN}"
    network = "--network={} --subnetwork={}".format(*run.NETWORK.split("/")) if run.NETWORK else ""
    account = f"--service-account={run.SERVICE_ACCOUNT}" if run.SERVICE_ACCOUNT else ""
    answer = _gcloud(
        run,
        f"{track} create {run.RUN} --accelerator-type={run.TYPE} {node} {capacity} {network} "
        f"--runtime-version={types.parse(run.TYPE).generation.runtime} {account} "
        f"--scopes=https://www.googleapis.com/auth/cloud-platform --labels=qwen3-run={run.RUN} "
        f"--valid-until-duration={3600 * run.WAIT_HOURS:.0f}s --async "
        f"{'--internal-ips' if SSH[run.SSH] else ''}",
    )
    _said(answer)


def state(run: Run) -> State:
    """Of the request and its nodes; Refused if the name is another pod's."""
    answer = _gcloud(run, f"{QR} describe {run.RUN} --format=json")
    if "NOT_FOUND" in answer.err or run.dry:
        return State("absent")
    request = json.loads(_said(answer).out)
    if _owner(_node(request)) != run.RUN or _node(request)["acceleratorType"] != run.TYPE:
        kind = _node(request)["acceleratorType"]
        raise Refused(f"RUN={run.RUN} is the name of another request, {kind}")
    about = request["state"]
    if about["state"] in DEAD:
        failure = about.get("failedData", {}).get("error", {}).get("message", "")
        return State("lost", f"{about['state']} {failure or 'by ' + about['stateInitiator']}")
    if about["state"] != "ACTIVE":
        return State("waiting", about["state"])
    nodes = _list(run, f"{TPU} tpu-vm list --filter=labels.qwen3-run={run.RUN}")
    hosts = sum(len(node["networkEndpoints"]) for node in nodes if node["state"] == "READY")
    words = [f"{_name(node)} is {node['state']}" for node in nodes if node["state"] != "READY"]
    if hosts == len(run.hosts):
        return State("active")
    starting = any(word.endswith(("CREATING", "STARTING")) for word in words)
    return State("waiting" if starting else "lost", ", ".join(words) or f"{hosts} hosts are there")


def everywhere(run: Run, line: str, timeout: float) -> dict[str, str]:
    """Run a line on every host at once; host -> what its worker.sh said."""
    ssh = f"{QR} ssh {run.RUN} {ALL} --strict-host-key-checking=no {SSH[run.SSH]}"
    return markers(_gcloud(run, ssh, f"--command={line}", timeout=timeout).out)


def copy(run: Run, file: Path) -> None:
    """Copy to every host's home; whether it came is seen when it is unpacked."""
    flags = f"{run.RUN}: {ALL} --strict-host-key-checking=no {SSH[run.SSH]}".split()
    _gcloud(run, f"{QR} scp", str(file), *flags, timeout=run.CALL_SECONDS)


def down(run: Run) -> None:
    """Delete request and nodes, and see them gone."""
    answer = _gcloud(run, f"{QR} delete {run.RUN} --force --async")
    if "NOT_FOUND" not in answer.err:
        _said(answer)
    deadline = time.monotonic() + 1200
    while left := [name for name, owner, _ in billed(run) if owner == run.RUN]:
        if time.monotonic() > deadline:
            raise NotNow(f"still there and billed: {', '.join(left)}; pod.py down once more")
        time.sleep(min(run.POLL_SECONDS, 10))


def billed(run: Run) -> list[tuple[str, str, str]]:
    """Every request and node of the zone: (name, run that its label names or "", what it is)."""
    requests, nodes = _list(run, f"{QR} list"), _list(run, f"{TPU} tpu-vm list")
    rows = [(item, _node(item), item["state"]["state"], "request") for item in requests]
    rows += [(item, item, item["state"], "node") for item in nodes]
    return [
        (_name(i), _owner(n), f"{kind}, {n['acceleratorType']}, {state}")
        for i, n, state, kind in rows
    ]


def _check_reservation(run: Run) -> None:
    """Refused unless the reservation exists and has not ended."""
    name = run.RESERVATION.rpartition("/")[2]
    answer = _gcloud(run, f"compute reservations describe {name} --format=json")
    about = json.loads(answer.out or '{"status": "not there"}')
    end = about.get("deleteAtTime", "9999")
    if not run.dry and (
        about["status"] != "READY" or end[:19] < time.strftime("%Y-%m-%dT%H:%M:%S")
    ):
        raise Refused(f"RESERVATION={name} in {run.ZONE} is {about['status']}, until {end}")


def _gcloud(run: Run, words: str, *more: str, timeout: float = 120) -> Answer:
    place = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", "--quiet"]
    return run.command(["gcloud", *words.split(), *more, *place], timeout)


def _list(run: Run, words: str) -> list[dict[str, Any]]:
    return json.loads(_said(_gcloud(run, f"{words} --format=json")).out or "[]")


def _said(answer: Answer) -> Answer:
    """The answer of a command that went well; else Refused or NotNow, in one line."""
    if answer.code == 0:
        return answer
    line = (answer.err.strip().splitlines() or ["gcloud did not answer in time"])[-1]
    for pattern, (kind, advice) in ADVICE.items():
        if re.search(pattern, answer.err):
            raise kind(f"{advice} ({line})")
    raise (NotNow if answer.code is None else Refused)(line)


def _node(request: dict[str, Any]) -> dict[str, Any]:
    return request["tpu"]["nodeSpec"][0]["node"]


def _owner(node: dict[str, Any]) -> str:
    return node.get("labels", {}).get("qwen3-run", "")


def _name(item: dict[str, Any]) -> str:
    return item["name"].rpartition("/")[2]
