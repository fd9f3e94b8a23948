"""TPU VMs through queued resources: a request of the run's name, nodes labelled with it."""

import json
import time
from pathlib import Path
from typing import Any

from pods.command import Answer, NotNow, Refused, State, markers
from pods.run import Run

QR, TPU = "compute tpus queued-resources", "compute tpus"
ALL = "--node=all --worker=all --batch-size=all --strict-host-key-checking=no"
DEAD = ("FAILED", "SUSPENDED", "SUSPENDING")  # such requests hold quota until they are deleted
SSH = {"external": "", "internal": "--internal-ip", "iap": "--tunnel-through-iap"}
CAPACITY = {"spot": "--spot", "on-demand": "", "reserved": "--reserved"}
# What gcloud complains about, whether it may go well later, and what is said to the user.
ADVICE = (
    ("active account|[Rr]eauth|invalid_grant", Refused, "no credentials: gcloud auth login"),
    ("SERVICE_DISABLED|not been used", Refused, "gcloud services enable tpu.googleapis.com"),
    ("[Qq]uota|RESOURCE_EXHAUSTED", Refused, "no quota for this kind of chip, capacity and zone"),
    ("more capacity|[Ss]tockout|STOCKOUT|POOL_EXHAUSTED", NotNow, "no capacity in the zone"),
)


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
    words = (
        f"{track} create {run.RUN} --accelerator-type={run.TYPE} {node} {capacity} {network} "
        f"--runtime-version={run.runtime} {account} "
        f"--scopes=https://www.googleapis.com/auth/cloud-platform --labels=qwen3-run={run.RUN} "
        f"--valid-until-duration={3600 * run.WAIT_HOURS:.0f}s --async "
        f"{'--internal-ips' if SSH[run.SSH] else ''}"
    )
    _gcloud(run, words).said(ADVICE)


def state(run: Run) -> State:
    """Of the request and its nodes; Refused if the name is another pod's."""
    answer = _gcloud(run, f"{QR} describe {run.RUN} --format=json")
    if "NOT_FOUND" in answer.err or run.dry:
        return State("absent")
    request = json.loads(answer.said(ADVICE))
    kind = _node(request)["acceleratorType"]
    if _owner(request) != run.RUN or kind != run.TYPE:
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
    ssh = f"{QR} ssh {run.RUN} {ALL} {SSH[run.SSH]}"
    return markers(_gcloud(run, ssh, f"--command={line}", timeout=timeout).out)


def copy(run: Run, file: Path) -> None:
    """Copy to every host's home; whether it came is seen when it is unpacked."""
    flags = f"{run.RUN}: {ALL} {SSH[run.SSH]}".split()
    _gcloud(run, f"{QR} scp", str(file), *flags, timeout=run.CALL_SECONDS)


def down(run: Run) -> None:
    """Delete request and nodes, and see them gone."""
    answer = _gcloud(run, f"{QR} delete {run.RUN} --force --async")
    if "NOT_FOUND" not in answer.err:
        answer.said(ADVICE)
    deadline = time.monotonic() + 1200
    while left := [name for name, owner, _ in billed(run) if owner == run.RUN]:
        if time.monotonic() > deadline:
            raise NotNow(f"still there and billed: {', '.join(left)}; pod.py down once more")
        time.sleep(min(run.POLL_SECONDS, 10))


def billed(run: Run) -> list[tuple[str, str, str]]:
    """Every request and node of the zone: (name, run that its label names or "", what it is)."""
    rows = [("request", item["state"]["state"], item) for item in _list(run, f"{QR} list")]
    rows += [("node", item["state"], item) for item in _list(run, f"{TPU} tpu-vm list")]
    return [
        (_name(item), _owner(item), f"{kind}, {_node(item)['acceleratorType']}, {state}")
        for kind, state, item in rows
    ]


def _check_reservation(run: Run) -> None:
    """Refused unless the reservation exists and has not ended."""
    name = run.RESERVATION.rpartition("/")[2]
    answer = _gcloud(run, f"compute reservations describe {name} --format=json")
    about = json.loads(answer.out or '{"status": "not there"}')
    end, now = about.get("deleteAtTime", "9999"), time.strftime("%FT%T", time.gmtime())
    if not run.dry and (about["status"] != "READY" or end[:19] < now):
        raise Refused(f"RESERVATION={name} in {run.ZONE} is {about['status']}, until {end}")


def _gcloud(run: Run, words: str, *more: str, timeout: float = 120) -> Answer:
    place = [f"--project={run.PROJECT}", f"--zone={run.ZONE}", "--quiet"]
    return run.command(["gcloud", *words.split(), *more, *place], timeout)


def _list(run: Run, words: str) -> list[dict[str, Any]]:
    return json.loads(_gcloud(run, f"{words} --format=json").said(ADVICE) or "[]")


def _node(item: dict[str, Any]) -> dict[str, Any]:
    """The node that a request asks for; of a node itself."""
    return item["tpu"]["nodeSpec"][0]["node"] if "tpu" in item else item


def _owner(item: dict[str, Any]) -> str:
    return _node(item).get("labels", {}).get("qwen3-run", "")


def _name(item: dict[str, Any]) -> str:
    return item["name"].rpartition("/")[2]
