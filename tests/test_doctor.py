"""`qwen3 doctor` and a run's record say what a bug report needs, and nothing secret."""

import json
import platform
import subprocess

import jax
import numpy as np
import pytest

import qwen3
from qwen3 import cli, sandbox
from qwen3.train import run_record


def test_the_record_names_versions_hardware_and_revision(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    record = run_record.run_record()
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["qwen3"] == qwen3.__version__ and record["python"] == platform.python_version()
    assert record["devices"] == {
        "platform": "cpu",
        "kind": "cpu",
        "count": len(jax.devices()),
        "processes": 1,
    }
    assert record["environment"]["XLA_FLAGS"].endswith("=8")
    assert "hf_secret" not in json.dumps(record)
    assert record["memory_bytes"] > 2**28 and record["cores"] >= 1


def test_where_no_git_is_the_revision_is_what_launchers_say(tmp_path, monkeypatch):
    monkeypatch.setenv("QWEN3_REVISION", "abc123")
    assert run_record.revision(tmp_path) == "abc123"


def test_the_revision_tells_committed_code_from_changed_and_from_no_checkout(tmp_path):
    assert run_record.revision(tmp_path) == ""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True)

    git("init")
    assert run_record.revision(package) == ""  # another project's checkout, not of this package
    git("add", ".")
    git("commit", "-m", "one")
    committed = run_record.revision(package)
    assert len(committed) == 40
    (package / "__init__.py").write_text("changed = True\n")
    assert run_record.revision(package) == committed + "+changes"


def test_doctor_prints_devices_versions_limits_and_the_sandboxs_level(capsys, monkeypatch):
    probe = {"level": "rlimits", "network": True, "refused": {"namespaces": "no"}, "sees": []}
    monkeypatch.setattr(sandbox.default(), "probe", lambda: probe)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    wanted = {"level": "rlimits", "network": True, "refused": {"namespaces": "no"}}
    assert report["sandbox"] == wanted
    assert set(report["limits"]) == {"open files", "processes", "file size", "address space"}
    assert all(size > 0 for size in report["free_disk_bytes"].values())
    assert cli.main(["doctor"]) == 0
    assert "  level: rlimits" in capsys.readouterr().out


@pytest.mark.parametrize("name", run_record.DISTRIBUTIONS[:3])
def test_what_is_not_installed_is_left_out(name, monkeypatch):
    def absent(asked):
        raise run_record.metadata.PackageNotFoundError(asked)

    monkeypatch.setattr(run_record.metadata, "version", absent)
    assert name not in run_record.versions()


def test_every_start_of_a_run_adds_its_record(tmp_path):
    for _ in range(2):
        run_record.add_run_record(tmp_path)
    path = tmp_path / run_record.RECORD
    path.write_text(path.read_text() + '{"torn')
    run_record.add_run_record(tmp_path)
    records = [json.loads(text) for text in path.read_text().splitlines()]
    assert len(records) == 3 and all(record["qwen3"] == qwen3.__version__ for record in records)
