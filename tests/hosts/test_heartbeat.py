"""What a launcher reads of a process: heartbeats and last words."""

import json

import pytest

from qwen3 import hosts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(hosts.HOST_FOLDER, str(tmp_path))
    monkeypatch.setattr(hosts, "spent", {})
    monkeypatch.setattr(hosts, "_last_heartbeat", {})
    return tmp_path


def beat(folder):
    return json.loads((folder / "heartbeat.json").read_text())


def test_seconds_of_a_step_are_counted_once(folder):
    hosts.spent["compile"] = 5.0
    hosts.heartbeat(1, seconds=8.0, input_wait=1.0)
    hosts.spent["save"] = 2.0
    hosts.heartbeat(2, seconds=4.0)
    assert beat(folder)["step"] == 2
    assert beat(folder)["spent"] == {"compile": 5.0, "input": 1.0, "step": 4.0, "save": 2.0}


def test_a_long_phase_renews_the_heartbeat_of_the_last_step(folder, monkeypatch):
    hosts.alive()
    assert not (folder / "heartbeat.json").exists()
    hosts.heartbeat(3)
    before = beat(folder)["time"]
    hosts.alive()
    assert beat(folder)["time"] == before
    monkeypatch.setattr(hosts.time, "time", lambda: before + 11)
    hosts.alive()
    assert beat(folder) == {"step": 3, "time": before + 11, "spent": {"input": 0.0, "step": 0.0}}


def test_last_words_name_the_line(folder):
    try:
        raise ValueError("a bad row\nand more")
    except ValueError as error:
        hosts.last_words(error, 1)
    record = json.loads((folder / "exit.json").read_text())
    assert record["error"] == "ValueError: a bad row" and record["rc"] == 1
    assert record["where"].startswith("test_heartbeat.py:") and "test_last_words" in record["where"]


def test_without_a_launcher_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(hosts.HOST_FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    hosts.heartbeat(1)
    assert list(tmp_path.iterdir()) == []


def test_urls_are_no_folders(tmp_path):
    assert hosts.local_folder(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="gcloud storage cp -r gs://bucket/32b .`, and give ./32b"):
        hosts.local_folder("gs://bucket/32b/")


def test_one_process_decides_alone():
    assert hosts.decided(lambda: "yes") == "yes" and hosts.gathered_words("a") == ["a"]
    hosts.assert_equal({"config": "x"})
