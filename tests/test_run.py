"""The command line of experiments: settings, exit codes, several hosts."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import jax
import pytest

import qwen3
from qwen3 import cli, hosts, run
from qwen3.config import OptimConfig, differences, override, to_dict, to_json
from qwen3.train.preemption import Stopped
from qwen3.train.workdir import Workdir
from qwen3.train.writing import WorkdirError


@dataclass(frozen=True)
class Stage:
    name: str
    optim: OptimConfig = OptimConfig()


@dataclass(frozen=True)
class Config:
    stages: tuple[Stage, ...] = (Stage("s1"), Stage("s2"))
    steps: int = 3


ALONE = {"num_processes": None, "process_id": None}  # JAX asks the cluster


def echo(config, workdir):
    return config, workdir


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No cluster in the environment, no change to this process's JAX."""
    for name in (*run.SEVERAL_HOSTS, "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: joined.append(options))
    monkeypatch.setattr(hosts, "end_with_peers", lambda: None)
    return joined


def test_a_workdir_that_cannot_be_used_is_one_line_and_code_1(tmp_path, capsys):
    (tmp_path / "file").write_text("")

    def begin(config, workdir):
        Workdir(workdir, config)

    with pytest.raises(SystemExit) as left:
        run.main(begin, Config(), ["--workdir", str(tmp_path / "file" / "run")])
    said = capsys.readouterr().err
    assert left.value.code == 1 and f"cannot write {tmp_path}/file/run: Not a directory" in said
    assert said.count("\n") == 1


def kill_me(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_before_there_is_a_training_loop_leaves_with_42(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        run.main(kill_me, Config(), ["--workdir", "there"])
    monkeypatch.setattr(run, "join_hosts", kill_me)
    with pytest.raises(Stopped):
        run.main(echo, Config(), ["--workdir", "there"])
    assert signal.getsignal(signal.SIGTERM) == before


class Command:
    """A module of a command whose run is `perform`."""

    def __init__(self, perform):
        self.perform = perform

    def add_parser(self, subparsers):
        subparsers.add_parser("recipe").set_defaults(run=self.perform)


def test_sigterm_stops_a_command_that_goes_on_later_with_42(monkeypatch):
    monkeypatch.setitem(sys.modules, "stand_in", Command(kill_me))
    monkeypatch.setitem(cli.COMMANDS, "recipe", "stand_in")
    with pytest.raises(Stopped):
        cli.main(["recipe"])
    resumable = {"pretrain", "sft", "reward_model", "rl", "distill", "recipe"}
    assert resumable == cli.RESUMABLE <= set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("no"), 2), (OSError("no"), 2), (WorkdirError("no"), 1)]
)
def test_a_mistake_at_the_command_line_is_one_line(monkeypatch, capsys, error, code):
    def fail(arguments):
        raise error

    monkeypatch.setitem(sys.modules, "stand_in", Command(fail))
    monkeypatch.setitem(cli.COMMANDS, "recipe", "stand_in")
    assert cli.main(["recipe"]) == code
    assert capsys.readouterr().err == "qwen3 recipe: no\n"


def test_the_version_is_told_without_importing_a_command():
    code = "import sys; from qwen3 import cli\n" + (
        "try: cli.main(['--version'])\nfinally: print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"qwen3 {qwen3.__version__}\nFalse\n" and done.returncode == 0


def test_settings_of_the_command_line_reach_the_run():
    words = ["--workdir", "there", "--set", "steps=5", "--set", "stages.s2.optim.peak=0.5"]
    config, workdir = run.main(echo, Config(), words)
    assert (config.steps, config.stages[1].optim.peak, workdir) == (5, 0.5, "there")
    assert config.stages[0] == Stage("s1")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("step=5", "'step' is none of"),
        ("stages.s3.name=x", "'s3' is none of 0, 1, s1, s2"),
        ("steps=many", "steps: 'many' is no"),
    ],
)
def test_a_wrong_setting_leaves_with_code_2_and_the_choices(capsys, setting, words):
    with pytest.raises(SystemExit) as left:
        run.main(echo, Config(), ["--workdir", "there", "--set", setting])
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_show_prints_the_config_and_runs_nothing(capsys):
    assert run.main(echo, Config(), ["--workdir", "x", "--show", "--set", "steps=9"]) is None
    assert '"steps": 9' in capsys.readouterr().out


def test_a_stage_is_found_by_number_too():
    assert override(Config(), ["stages.0.optim.warmup=1"]).stages[0].optim.warmup == 1


def test_a_host_that_would_train_alone_or_beside_its_tpu_is_refused(monkeypatch):
    run.refuse_missing_devices()
    monkeypatch.setattr(run, "TPU_DEVICES", ("/dev/nul[l]",))
    run.refuse_missing_devices()  # JAX_PLATFORMS=cpu
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    with pytest.raises(RuntimeError, match="fell back to the CPU, though 1 TPU chips are here"):
        run.refuse_missing_devices()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(RuntimeError, match="tells of 4 processes, and 1 joined"):
        run.refuse_missing_devices()
    monkeypatch.undo()
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(RuntimeError, match="4 hosts, which have not joined"):
        run.refuse_missing_devices()


@pytest.mark.parametrize(
    "environment, joins",
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ],
)
def test_hosts_join_where_there_are_several(monkeypatch, alone, environment, joins):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run.join_hosts()
    assert alone == ([ALONE] if joins else [])


def test_hosts_join_by_hand_and_when_asked(monkeypatch, alone):
    run.join_hosts(always=True)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    run.join_hosts()
    assert alone == [ALONE, {"num_processes": 2, "process_id": 1}]


def test_a_stored_config_is_itself_and_a_change_inside_a_stage_is_named():
    stored = json.loads(to_json(Config()))  # keys in another order
    assert differences(stored, to_dict(Config())) == []
    changed = to_dict(override(Config(), ["stages.s2.optim.peak=0.5"]))
    assert differences(stored, changed) == ["stages.1.optim.peak: 0.0003 -> 0.5"]
