"""A pod of two hosts on this machine, from up to down, through the worker.sh of every pod."""

import json

import pytest

TINY = "experiments/tiny_pod.py --set faults={faults}"


@pytest.fixture
def pod(loopback):
    """Two processes of JAX, two emulated devices each."""
    loopback.keys["ENTRY"] = TINY.format(faults=loopback.trouble)
    return loopback


def checkpoints(pod):
    return sorted(
        int(file.parent.name) for file in pod.run.glob("work/checkpoints/*/checkpoint.json")
    )


def test_it_comes_up_runs_stops_resumes_ends_and_goes(pod):
    pod.keys["ENTRY"] += " --set pause=0.2"
    assert "active: 4 chips on 2 hosts" in pod.ok("up")
    assert "started on 2 hosts" in pod.ok("run")
    assert "was running on 2" in pod.ok("run")
    pod.until(lambda: pod.step() >= 7)
    assert "running" in pod.ok("status")
    assert "stopped" in pod.ok("stop")
    stopped = checkpoints(pod)[-1]
    assert stopped == pod.step() and pod.ok("status").count(" stopped ") == 2
    assert "started on 2 hosts" in pod.ok("run")
    pod.until(lambda: pod.ok("status").count(" done ") == 2)
    assert f"resumed at {stopped}\n" in pod.log("0.1") and checkpoints(pod)[-1] == 30
    assert "healthy: 2 hosts, 4 devices" in pod.log("0.0")
    page = pod.folder / "status.html"
    text = pod.ok("status", "--html", str(page))
    assert "newest checkpoint: 30" in text and "<polyline" in page.read_text()
    assert "deleted" in pod.ok("down", "--yes") and not (pod.run / "hosts").exists()
    assert (pod.run / "work" / "metrics.jsonl").exists()
    assert pod("status")[0] == 0  # done, though there is no pod


def started(pod, **keys):
    pod.ok("up", **keys)
    pod.ok("run", **keys)
    return pod


def events(pod, kind):
    """What supervisors noted of that kind, by host and time."""
    files = pod.run.glob("pod/*/*/events.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: (row["host"], row["time"]))
    return [row for row in rows if row["event"] == kind]


def done(pod, **keys):
    """Until the run is done; how each attempt of each host ended: (host, code, error)."""
    pod.until(lambda: pod("status", **keys)[1].count(" done ") == 2)
    assert checkpoints(pod)[-1] == 30
    return sorted((row["host"], row["code"], row["error"]) for row in events(pod, "end"))


@pytest.mark.slow
def test_an_exception_on_one_host_ends_all_and_is_named_and_all_start_again(pod):
    (pod.trouble / "0.1").write_text("crash")
    ends = done(started(pod))
    error = next(error for host, code, error in ends if (host, code) == ("0.1", 1))
    assert error.startswith("ValueError: a bad row in shard 17 (tiny_pod.py:")
    assert [end[:2] for end in ends if end[1] == 0] == [("0.0", 0), ("0.1", 0)] and len(ends) == 4
    first = pod.ok("logs", "--first-error").splitlines()[0]
    assert first.startswith("host 0.1, attempt 1") and "a bad row in shard 17" in first
    assert "Traceback" in pod.log("0.1") and pod.log("0.0").count("resumed at") == 2


@pytest.mark.slow
def test_a_killed_host_comes_again_and_so_do_its_peers(pod):
    (pod.trouble / "0.0").write_text("9")
    ends = done(started(pod))
    assert ("0.0", 137, "killed by signal 9") in ends and len(ends) == 4
    assert "killed by signal 9" in pod.ok("logs", "--first-error").splitlines()[0]


@pytest.mark.slow
def test_a_hanging_host_is_noticed_its_stack_is_shown_and_all_start_again(pod):
    (pod.trouble / "0.1").write_text("hang")
    keys = {"HANG_MINUTES": 0.1}
    started(pod, **keys)
    pod.until(lambda: pod("status", **keys)[0] == 4)
    ends = done(pod, **keys)
    hung = {host: error for host, code, error in ends if error.startswith("hung: no step for")}
    assert "tiny_pod.py" in hung["0.1"] and "in __getitem__" in hung["0.1"]
    assert all("most recent call first" in pod.log(host) for host in ("0.0", "0.1"))
    # Both have been killed and started again within the watchdog's six seconds, and ten more.
    silent = {row["host"]: row["beat"] for row in events(pod, "end") if row["hung"]}
    again = {row["host"]: row["time"] for row in events(pod, "attempt") if row["attempt"] == 2}
    waited = {host: again[host] - silent["0.1"] for host in again}
    print("seconds from the last step to the second attempt:", waited)
    assert len(waited) == 2 and max(waited.values()) < 60 * keys["HANG_MINUTES"] + 10


@pytest.mark.slow
def test_a_sigterm_to_one_host_saves_at_one_step_and_the_run_goes_on(pod):
    (pod.trouble / "0.1").write_text("15")
    ends = done(started(pod))
    assert [end[1] for end in ends] == [0, 42, 0, 42]
    assert len(set(checkpoints(pod)) - {5, 10, 15, 20, 25, 30}) <= 1
