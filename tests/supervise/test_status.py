"""What is made of the reports of hosts: goodput, cost, first causes, the page."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3 import cli
from qwen3.supervise import first_error, status_cli, status_text
from qwen3.supervise.pod_settings import PodSettings
from qwen3.supervise.status import Status

SETTINGS = PodSettings(
    RUN="toy",
    ENTRY="x",
    TYPE="cpu-4",
    BUCKET="/bucket",
    BACKEND="loopback",
    PRICE=2.0,
    PRICE_SOURCE="a list, 2026-11-01",
    MAX_HOURS=5.0,
)


@pytest.fixture
def folder(tmp_path):
    """The run's folder in the bucket, with its settings as launch/pod.py writes them."""
    file = tmp_path / "pod" / "run.env"
    file.parent.mkdir()
    file.write_text(SETTINGS.host_lines())
    return tmp_path


def write(folder, name, *rows):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pod_events(folder, *events):
    for time, event in events:
        write(folder, f"pod/events/{time:012.3f}.json", {"time": time, "event": event})


def row(time, event, **about):
    return {"time": time, "event": event, "host": "0.0", "checkpoint": 0, "error": "", **about}


def status(folder, now, **settings):
    return Status(replace(SETTINGS, **settings), folder, now)


@pytest.fixture
def preempted(folder):
    """Ten minutes of set-up, an hour of steps, lost for half an hour, again, and done."""
    pod_events(folder, (0, "up"), (100, "active"), (700, "run"), (4400, "lost"))
    pod_events(folder, (5000, "up"), (6200, "active"), (6300, "run"))
    spent = {"restore": 20, "compile": 180, "save": 60, "input": 40, "step": 3000}
    first = [
        row(700, "attempt", attempt=1, start="A"),
        row(4300, "end", attempt=1, code=143, step=300, checkpoint=200, spent=spent, start="A"),
    ]
    spent = {"compile": 100, "step": 800}
    second = [
        row(6400, "attempt", attempt=1, checkpoint=200, start="B"),
        row(7400, "end", attempt=1, code=0, step=280, checkpoint=280, spent=spent, start="B"),
        row(7401, "left", state="done", checkpoint=280, start="B"),
    ]
    write(folder, "pod/A/0.0/events.jsonl", *first)
    write(folder, "pod/B/0.0/events.jsonl", *second)
    for host in ("0.0", "0.1"):
        write(
            folder,
            f"pod/B/{host}/state.json",
            {**second[-1], "host": host, "attempt": 1, "code": 0},
        )
    metrics = [
        {"step": s, "loss": 4.0 - s / 100, "seconds": 10.0, "tokens_per_second": 5e3}
        for s in range(1, 281)
    ]
    write(folder, "work/metrics.jsonl", *metrics)
    return folder


def test_every_second_goes_to_a_cause(preempted):
    seconds = status(preempted, now=9000).seconds
    assert seconds == pytest.approx(
        {
            "set-up": 600 + 200,
            "restore": 20,
            "compile": 180 + 100,
            "save": 60,
            "input": 40,
            "lost steps": 1000,  # a third of 300 steps came after the last checkpoint
            "useful": 2000 + 800,
            "start": 300 + 100,  # of an attempt, what nothing else accounts for
            "down": 100 + 600 + 1,
            "waiting": 1200,
        }
    )
    assert sum(seconds.values()) == pytest.approx(7401 - 100)


def test_the_words_of_the_status(preempted):
    made = status(preempted, now=9800)
    text = status_text.status_text(made)
    assert "goodput: 38.4% of 2.03 h; waiting 16.4%, set-up 11.0%" in text
    assert "lost steps 13.7%" in text and "newest checkpoint: 280" in text
    # 4400 - 100 and 9800 - 6200 seconds of four chips at two dollars.
    assert "chip-hours: 8.78" in text and "cost so far: $17.56 at $2 a chip-hour, a list" in text
    assert "loss: 3.99 █" in text and "▁ 1.2" in text and "tokens per second: 5,000" in text
    assert made.ended == "done" and made.limit == "" and made.checkpoint == 280
    assert (
        status(preempted, now=9800, MAX_COST=17.0, MAX_HOURS=2.0).limit == "MAX_COST=$17 is spent"
    )
    assert status(preempted, now=30_000).limit == "5 h are over"
    page = status_text.status_page(made, "toy")
    assert page.count("<polyline") == 1 and "goodput: 38.4%" in page and "loss 1.2 to 3.99" in page


def test_the_time_of_an_attempt_without_a_report_of_its_phases_is_taken_from_the_metrics(folder):
    pod_events(folder, (0, "active"))
    state = {
        "time": 900,
        "host": "0.0",
        "state": "running",
        "checkpoint": 30,
        "step": 50,
        "attempt": 1,
    }
    write(folder, "pod/A/0.0/events.jsonl", row(100, "attempt", attempt=1))
    write(folder, "pod/A/0.0/state.json", {**state, "beat": 890})
    write(
        folder,
        "work/metrics.jsonl",
        *({"step": s, "loss": 1.0, "seconds": 10.0} for s in range(51)),
    )
    made = status(folder, now=1000)
    assert made.seconds == pytest.approx(
        {"set-up": 100, "useful": 500, "lost steps": 0, "start": 400}
    )
    assert made.silence("0.0") == 110 and made.hung == []
    assert status(folder, now=3000).hung == ["0.0"]


def test_a_run_has_ended_when_one_host_gave_up_or_all_are_done(folder):
    write(folder, "pod/A/0.0/state.json", row(100, "left", state="done"))
    write(folder, "pod/A/0.1/state.json", row(100, "", state="running", host="0.1"))
    assert status(folder, 120).ended == "" and status(folder, 120).absent == ["0.0"]
    assert status(folder, 1000).absent == ["0.0", "0.1"]  # the second fell silent
    write(
        folder, "pod/A/0.1/state.json", row(130, "left", state="failed", reason="a bug", host="0.1")
    )
    assert status(folder, 140).ended == "failed" and "a bug" in status_text.status_text(
        status(folder, 140)
    )
    pod_events(folder, (150, "run"))  # what was said before the last start counts no more
    assert status(folder, 160).ended == "" and "starting" in status_text.status_text(
        status(folder, 160)
    )


VFIO = """2026-11-29 15:00:00,100 qwen3 joined
E1129 15:00:01.000 open(/dev/vfio/0): Device or resource busy: Couldn't open iommu group
jax.errors.JaxRuntimeError: UNKNOWN: TPU initialization failed: see above
"""
PEER = """Traceback (most recent call last):
  File "/code/src/qwen3/run.py", line 90, in join_hosts
    jax.distributed.initialize()
jaxlib.JaxRuntimeError: UNAVAILABLE: PollForError: the coordination service lost a task
"""
CHAIN = """2026-11-29 15:00:00,100 qwen3 step 7
Traceback (most recent call last):
  File "/code/src/qwen3/train/loop.py", line 74, in train
    batch = source(state)
  File "/code/src/qwen3/data/rows.py", line 12, in read
    raise ValueError(row)
ValueError: row 17 has no text

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/code/src/qwen3/train/loop.py", line 80, in train
RuntimeError: the source failed
"""


def test_the_first_error_of_a_log_is_its_cause_with_its_place():
    error = "ValueError: row 17 has no text (rows.py:12 in read)"
    assert first_error.first_error(CHAIN) == error
    assert "PollForError" in first_error.first_error(PEER)
    assert first_error.first_error(PEER + CHAIN) == error
    assert first_error.first_error("step 1\nstep 2\nno Error here\n") == ""


def test_a_masked_fault_of_a_machine_is_found_behind_the_errors_of_its_peers(folder):
    """The peers die first and loudest; the line that matters is one host's, and no exception."""
    peer, vfio = first_error.first_error(PEER), first_error.first_error(VFIO)
    write(folder, "pod/A/0.0/events.jsonl", row(100.0, "end", attempt=2, code=1, error=peer))
    bad = row(101.5, "end", attempt=2, code=1, error=vfio, host="0.1")
    write(folder, "pod/A/0.1/events.jsonl", bad)
    lines = list(status(folder, 200).first_errors())
    assert lines[0].startswith("host 0.1, attempt 2, 00:01:41 UTC: E1129") and "iommu" in lines[0]
    assert "host 0.1 will not get well" in lines[1] and "PollForError" in lines[2]


def test_a_killed_host_comes_before_what_its_peers_say_of_it(folder):
    told = (
        "F1130 01:05:39.621682   25564 client.h:80] Terminating process because the JAX "
        "distributed service detected fatal errors. This most likely indicates that another "
        "task died; see the other task logs for more details."
    )
    error = first_error.first_error(told)
    assert error == told
    write(
        folder,
        "pod/A/0.1/events.jsonl",
        row(100.0, "end", attempt=1, code=134, error=error, host="0.1"),
    )
    killed = row(101.5, "end", attempt=1, code=137, error="killed by signal 9")
    write(folder, "pod/A/0.0/events.jsonl", killed)
    lines = list(status(folder, 200).first_errors())
    assert "killed by signal 9" in lines[0] and "distributed service" in lines[1]


def test_where_a_process_hung_is_where_a_thread_of_ours_sleeps():
    dump = """Thread 0x00007f (most recent call first):
  File "/code/experiments/tiny_pod.py", line 66 in __getitem__
  File "/code/src/qwen3/train/prefetch.py", line 31 in read
  File "/usr/lib/python3.12/threading.py", line 982 in run

Current thread 0x00007e (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 320 in wait
  File "/code/src/qwen3/train/prefetch.py", line 40 in next
  File "/code/src/qwen3/train/loop.py", line 80 in train
"""
    assert first_error.hung_at("step 3\n" + dump) == "tiny_pod.py:66 in __getitem__"
    peer = "Current thread" + dump.partition("Current thread")[2]
    assert first_error.hung_at(peer) == "prefetch.py:40 in next"
    assert first_error.hung_at("step 3\n") == "an unknown place"


def test_the_command_prints_the_status_a_log_and_the_first_error(preempted, tmp_path, capsys):
    (preempted / "pod/B/0.1/attempt-1.log").write_text("resumed at 200\n")
    page = tmp_path / "page.html"
    assert cli.main(["status", str(preempted), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "toy: 1 x cpu-4\nhost   state     attempt  step     heartbeat  code error"
    )
    assert out.count(" done ") == 2 and "newest checkpoint: 280" in out
    text = page.read_text()
    assert all(f"<td>{cause}<td>" in text for cause in ("useful", "waiting", "lost steps", "down"))
    assert cli.main(["status", str(preempted), "--log", "0.1"]) == 0
    assert capsys.readouterr().out == "resumed at 200\n\n"
    assert cli.main(["status", str(preempted), "--first-error"]) == 0
    assert capsys.readouterr().out == "no attempt ended with an error\n"


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["{folder}/other"], "is no folder of a run"),
        (["{folder}", "--log", "0.7"], "there is no host '0.7'; hosts: 0.0, 0.1"),
    ],
)
def test_a_wrong_folder_or_host_is_one_line(folder, words, complaint, capsys):
    assert cli.main(["status", *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_launchers_ask_with_the_standard_library_alone(preempted):
    root = Path(status_cli.__file__).parents[2]
    argv = [sys.executable, "-S", "-m", "qwen3.supervise.status_cli", str(preempted), "--json"]
    done = subprocess.run(argv, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    verdict = json.loads(done.stdout)
    assert verdict["ended"] == "done" and verdict["hung"] == [] and "goodput" in verdict["text"]


def test_a_curve_in_a_line():
    assert status_text.sparkline([]) == "-"
    assert status_text.sparkline([2.0]) == "2 ▁ 2"
    assert status_text.sparkline([4.0, 3.0, 0.5]) == "4 █▆▁ 0.5"
    assert len(status_text.sparkline([float(i) for i in range(1000)]).split()[1]) == 60
