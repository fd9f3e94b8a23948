"""TPU VMs through queued resources: the life of a pod, and what can go wrong in it.

Each scenario runs with a fake gcloud, and (`-m slow`) with the real one, against the same fake API.
"""

import json
import subprocess

import pytest
from fake_cloud import NO_CAPACITY

QUICK = "experiments/trainer.py --steps 30 --pause 0.05"


def requested(cloud):
    return sum(call == "POST" and path.endswith("queuedResources") for call, path in cloud.calls)


def test_a_pod_lives_is_preempted_comes_again_ends_and_is_deleted(tpu, cloud):
    argv = tpu.argv("watch", "--yes", ENTRY=f"{QUICK} --pause 0.2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    watch = subprocess.Popen(argv, cwd=tpu.clone, env=tpu.environment, **pipes)
    tpu.until(lambda: tpu.step() >= 7)
    first = set(cloud.folder.glob("127.*"))
    cloud.preempt("toy")
    out, err = watch.communicate(timeout=600)
    assert watch.returncode == 0, (out, err[-3000:])
    assert "waiting for 0 min WAITING_FOR_RESOURCES" in out and "lost, SUSPENDED by SERVICE" in out
    assert "deleted" in out and not cloud.requests and not cloud.nodes
    assert cloud.made == 2 and not first & set(cloud.folder.glob("127.*"))
    resumed = [line for line in tpu.log("0.0").splitlines() if line.startswith("resumed")]
    assert resumed[0] == "resumed at 0" and int(resumed[1].split()[-1]) >= 5
    assert tpu.step() >= 30 and "down" in out and "goodput" in out


def test_up_and_run_can_be_repeated(tpu, cloud):
    tpu.keys["ENTRY"] = f"{QUICK} --steps 100000"
    assert "active: 8 chips on 2 hosts" in tpu.ok("up")
    assert "active" in tpu.ok("up") and requested(cloud) == 1
    assert "started on 2 hosts" in tpu.ok("run")
    assert "was running on 2" in tpu.ok("run")


def test_no_quota_is_said_in_one_line_and_nothing_is_created(tpu, cloud):
    limit = "Quota limit 'TPUV4PreemptiblePerProjectPerZone' has been exceeded. Limit: 0."
    cloud.refusal = (429, "RESOURCE_EXHAUSTED", limit)
    code, text = tpu("up")
    assert code == 2 and "no quota for this kind of chip" in text and "Limit: 0" in text
    assert len(text.splitlines()) == 1 and not cloud.requests


def test_without_capacity_the_dead_request_is_deleted_by_the_next_up(tpu, cloud):
    cloud.states = ["WAITING_FOR_RESOURCES", "FAILED"]
    code, text = tpu("up")
    assert code == 2 and f"lost: FAILED {NO_CAPACITY}" in text
    cloud.states = ["ACTIVE"]
    assert "deleting what is left" in tpu.ok("up") and list(cloud.requests) == ["toy"]


def test_watch_asks_again_where_there_was_no_capacity(tpu, cloud):
    cloud.states = ["FAILED"]
    argv = tpu.argv("watch", ENTRY=QUICK)
    watch = subprocess.Popen(
        argv, cwd=tpu.clone, env=tpu.environment, stdout=subprocess.PIPE, text=True
    )
    tpu.until(lambda: requested(cloud) >= 2)
    cloud.states = ["ACTIVE"]
    out, _ = watch.communicate(timeout=600)
    assert watch.returncode == 0 and "trying again" in out and cloud.requests


def test_another_request_of_that_name_is_left_alone(tpu, cloud):
    tpu.ok("up")
    code, text = tpu("up", TYPE="v4-8")
    assert code == 2 and "RUN=toy is the name of another request, v4-16" in text
    assert "toy" in cloud.requests and requested(cloud) == 1


def test_dead_requests_of_others_are_named_before_they_eat_the_quota(tpu, cloud):
    cloud.states = ["FAILED"]
    tpu("up", RUN="older")
    code, text = tpu("up")
    assert code == 2 and "dead requests hold your quota: older" in text and "delete older" in text
    assert list(cloud.requests) == ["older"]


def test_a_node_that_is_gone_makes_the_pod_lost_whatever_ssh_says(tpu, cloud):
    tpu.ok("up")
    cloud.nodes["toy"]["state"] = "PREEMPTED"
    code, text = tpu("run")
    assert code == 2 and "lost toy is PREEMPTED" in text
    assert tpu("status")[0] == 3


def test_a_host_where_the_command_fails_is_missed_though_gcloud_reports_success(tpu, cloud):
    tpu.ok("up")
    (cloud.folder / "faults" / "1").write_text("fail")
    code, text = tpu("run")
    assert code == 2 and "1 of 2 hosts answered, not 0.1" in text
    (cloud.folder / "faults" / "1").unlink()
    assert "hosts" in tpu.ok("run")


def test_a_host_that_never_answers_is_named_within_the_time_of_the_call(tpu, cloud):
    tpu.ok("up")
    (cloud.folder / "faults" / "0").write_text("hang")
    seconds = 12 if tpu.real else 0.4
    code, text = tpu("run", CALL_SECONDS=seconds, timeout=600)
    assert code == 2 and "not 0.0" in text


def test_a_flaky_ssh_is_no_failure(tpu, cloud):
    tpu.ok("up")
    (cloud.folder / "faults" / "1").write_text("flaky")
    assert "started on 2 hosts" in tpu.ok("run")


def test_a_notice_of_preemption_makes_a_host_save_and_leave(tpu, cloud):
    tpu.keys["ENTRY"] = f"{QUICK} --steps 1000"
    tpu.ok("up")
    tpu.ok("run")
    tpu.until(lambda: tpu.step() >= 3)
    cloud.preempted = {"127.1.1.1"}
    tpu.until(lambda: "preempted" in tpu("status")[1])
    state = json.loads(next(tpu.run.glob("pod/*/0.0/state.json")).read_text())
    assert state["code"] == 42 and state["checkpoint"] == tpu.step()


def test_hosts_with_the_metadata_of_another_pod_do_not_start(tpu, cloud):
    cloud.slices = {"127.1.1.2": "3"}
    tpu.ok("up")
    code, text = tpu("run")
    assert code == 2 and "host 0.1: failed: told of 3 slices, not of 1" in text


def test_two_slices_are_two_nodes_of_one_request(tpu, cloud):
    tpu.keys.update(SLICES=2, ENTRY=QUICK)
    assert "active: 16 chips on 4 hosts" in tpu.ok("up")
    assert set(cloud.nodes) == {"toy-0", "toy-1"}
    assert "started on 4 hosts" in tpu.ok("run")
    tpu.until(lambda: tpu("status")[1].count(" done ") == 4)


def test_down_asks_deletes_and_says_when_there_is_nothing(tpu, cloud):
    tpu.ok("up")
    code, text = tpu("down")  # no terminal, so no answer
    assert code == 2 and cloud.requests
    assert "deleted" in tpu.ok("down", "--yes") and not cloud.requests
    assert "there is no pod" in tpu.ok("down", "--yes")


def test_sweep_finds_pods_whose_hosts_fell_silent_and_deletes_only_ours(tpu, cloud):
    tpu.ok("up")
    other = {"labels": {}, "name": "projects/p/locations/z/nodes/stranger", "queuedResource": ""}
    cloud.nodes["stranger"] = {**cloud.nodes["toy"], **other}
    assert "an orphan" not in tpu.ok("sweep")
    for file in tpu.run.glob("pod/events/*.json"):
        event = json.loads(file.read_text())
        file.write_text(json.dumps({**event, "time": event["time"] - 7200}))
    text = tpu.ok("sweep", "--yes")
    assert "toy: request, v4-16, ACTIVE, run toy, silent: an orphan" in text
    assert "stranger: node, v4-16, READY, run -" in text
    assert not cloud.requests and list(cloud.nodes) == ["stranger"]


def nothing(tpu, cloud):
    pass


def without_the_type(tpu, cloud):
    cloud.types = {"v6e-16"}


def logged_out(tpu, cloud):
    del tpu.environment["CLOUDSDK_AUTH_DISABLE_CREDENTIALS"]


def expired(tpu, cloud):
    cloud.reservations["spring"] = {"status": "READY", "deleteAtTime": "2026-05-01T00:00:00Z"}


def dirty(tpu, cloud):
    (tpu.clone / "notes.txt").write_text("x")


def used(tpu, cloud):
    file = tpu.run / "pod" / "run.env"
    file.parent.mkdir(parents=True)
    file.write_text("RUN=toy\nENTRY=experiments/other.py\nTYPE=v4-16\nBUCKET=/b\nBACKEND=gke\n")
    with file.open("a") as lines:
        lines.write("PROJECT=p\nZONE=z\nCLUSTER=c\nIMAGE=i\n")


SPRING = {"CAPACITY": "reserved", "RESERVATION": "spring"}
# What is wrong: keys of the file, what has happened before, what is said.
WRONG = {
    "no such type": ({"TYPE": "v9-16"}, nothing, "there is no type 'v9-16'; known: v4-N"),
    "a zone without it": ({}, without_the_type, "ZONE=us-central2-b does not have TYPE=v4-16"),
    "an unknown key": ({"COLOUR": "red"}, nothing, "no key COLOUR; keys are RUN"),
    "a dirty tree": ({}, dirty, "the tree is dirty (1 files, notes.txt): commit first"),
    "no bucket": ({"BUCKET": "/no/bucket"}, nothing, "BUCKET=/no/bucket is not there, or not"),
    "no credentials": ({}, logged_out, "no credentials: gcloud auth login"),
    "no reservation": (SPRING, nothing, "RESERVATION=spring in us-central2-b is not there"),
    "an expired reservation": (SPRING, expired, "is READY, until 2026-05-01"),
    "a name in use": ({}, used, "RUN=toy is the name of another run, of ENTRY=experiments/other"),
    "beyond the grant": ({"ALLOW": "v4-8@z:spot"}, nothing, "is not in ALLOW, and would be billed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_created_or_billed(case, tpu, cloud):
    keys, prepare, words = WRONG[case]
    prepare(tpu, cloud)
    try:
        code, text = tpu("up", **keys)
    finally:
        (tpu.clone / "notes.txt").unlink(missing_ok=True)
    assert code == 2 and words in text and len(text.splitlines()) == 1, text
    assert requested(cloud) == 0 and not cloud.requests and not cloud.nodes
