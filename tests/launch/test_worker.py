"""worker.sh and the supervisor on one host: attempts, progress, the watchdog, leaving."""

import os
import signal
import subprocess
import sys
from pathlib import Path


def test_a_failed_attempt_is_followed_by_another_from_the_last_checkpoint(host):
    host = host()
    (host.trouble / "0.0").write_text("crash")
    assert host.run().wait(90) == 0
    assert host.ends() == [
        (1, "ValueError: a bad row in shard 17 (trainer.py:46 in step_with_faults)"),
        (0, ""),
    ]
    assert "resumed at 5" in host.log(2) and host.state()["state"] == "done"
    assert (host.bucket / "runs/toy/pod/stop").read_text() == "done"


def test_the_same_cause_twice_without_a_new_checkpoint_ends_the_run_on_all_hosts(host):
    host = host(ENTRY="experiments/trainer.py --steps nonsense")
    entry = host.code / "experiments" / "trainer.py"
    entry.write_text('raise KeyError("no such row")\n')
    worker = host.run()
    assert worker.wait(90) == 1
    assert [code for code, _ in host.ends()] == [1, 1]
    reason = "host 0.0: 2 attempts, no new checkpoint: KeyError: 'no such row'"
    assert host.state()["reason"].startswith(reason) and host.state()["state"] == "failed"
    assert (host.bucket / "runs/toy/pod/stop").read_text().startswith(reason)


def test_consequences_of_other_hosts_failures_are_borne_longer(host):
    host = host(TRIES=3)
    entry = host.code / "experiments" / "trainer.py"
    entry.write_text('raise ConnectionError("UNAVAILABLE: Connection reset by peer")\n')
    assert host.run().wait(90) == 1
    assert len(host.ends()) == 3


def test_wrong_settings_are_not_tried_again(host):
    host = host(ENTRY="experiments/trainer.py --no-such-option")
    assert host.run().wait(90) == 1
    assert host.ends() == [(2, "exit code 2")] and "unrecognized arguments" in host.log()


def test_a_silent_process_shows_its_stack_and_is_killed(host):
    host = host(HANG_MINUTES=0.03)
    (host.trouble / "0.0").write_text("hang")
    assert host.run().wait(90) == 0
    (code, error), last = host.ends()
    assert code == 137 and error.startswith("hung: no step for 2 s at trainer.py:")
    assert "in step_with_faults" in error and last == (0, "")


def test_the_first_step_has_a_limit_of_its_own(host):
    host = host(START_MINUTES=0.03, TRIES=1)
    (host.code / "experiments" / "trainer.py").write_text("import time\ntime.sleep(600)\n")
    assert host.run().wait(90) == 1
    ((code, error),) = host.ends()
    assert error.startswith("hung: no step for 2 s")


def test_the_end_of_the_machine_saves_and_leaves_the_run_to_others(host):
    host = host()
    worker = host.run()
    host.until(lambda: host.state().get("step", 0) >= 2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 42
    assert host.ends() == [(42, "told to stop, and saved")] and host.state()["state"] == "left"
    assert not (host.bucket / "runs/toy/pod/stop").exists()  # nobody is told to stop


def test_a_host_has_one_run_at_a_time_and_stop_and_kill_end_it(host):
    host = host(ENTRY="experiments/trainer.py --steps 100000 --pause 0.05")
    assert host.worker("setup") == "@pod 0.0 ready"
    assert host.worker("start").startswith("@pod 0.0 started")
    assert host.worker("start").startswith("@pod 0.0 running toy START ")
    assert host.worker("setup").startswith("@pod 0.0 running toy START ")
    assert host.worker("run").startswith("@pod 0.0 running toy START ")
    host.until(lambda: host.state().get("step", 0) >= 2)
    assert host.worker("stop") == "@pod 0.0 stop"
    host.until(lambda: host.state()["state"] == "stopped")
    assert host.ends()[-1][0] == 42
    assert host.worker("kill") == "@pod 0.0 kill"  # of nothing
    (host.bucket / "runs/toy/pod/stop").unlink(missing_ok=True)
    # The worker before says that it stopped, and then takes a moment to end.
    host.until(lambda: host.worker("start").startswith("@pod 0.0 started"))
    host.until(
        lambda: host.state()["state"] == "running" and (host.home / "qwen3/toy/host/child").exists()
    )
    child = int((host.home / "qwen3/toy/host/child").read_text())
    assert host.worker("kill") == "@pod 0.0 kill"
    host.until(lambda: not os.path.exists(f"/proc/{child}") or zombie(child))


def test_a_run_that_is_over_within_moments_was_started_all_the_same(host):
    host = host()
    stop = host.bucket / "runs/toy/pod/stop"
    stop.parent.mkdir(parents=True)
    stop.write_text("done")  # by another host, faster than this one
    for _ in range(2):
        assert host.worker("start") == "@pod 0.0 started"
        host.until(lambda: host.state().get("state") == "done")


def test_setup_copies_the_data_or_says_why_not(host, tmp_path):
    (tmp_path / "corpora" / "s1").mkdir(parents=True)
    (tmp_path / "corpora" / "s1" / "rows").write_text("1")
    host = host(DATA=f"{tmp_path / 'corpora'} {tmp_path / 'disk'}")
    assert host.worker("setup") == "@pod 0.0 ready"
    assert (tmp_path / "disk" / "s1" / "rows").read_text() == "1"
    settings = host.code / "run.env"
    settings.write_text(settings.read_text() + f"DATA='/nowhere {tmp_path / 'other'}'\n")
    words = host.worker("setup")
    assert words.startswith("@pod 0.0 failed: DATA=/nowhere") and "cannot be copied" in words


def zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_what_the_process_started_ends_with_it(host):
    host = host(TRIES=1)
    entry = host.code / "experiments" / "trainer.py"
    entry.write_text(
        "import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
    )
    assert host.run().wait(60) == 0
    pid = int(host.log().split()[-1])
    host.until(lambda: not os.path.exists(f"/proc/{pid}") or zombie(pid))


def health(tmp_path, **environment):
    settings = {
        "QWEN3_NAME": "0.0",
        "QWEN3_HOST_DIR": str(tmp_path),
        "HOSTS": "1",
        "CHIPS": "2",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        **environment,
    }
    argv = [sys.executable, "-m", "qwen3.supervise.health_check"]
    done = subprocess.run(argv, env={**os.environ, **settings}, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_health_check_counts_chips(tmp_path):
    code, text = health(tmp_path)
    assert code == 0 and "healthy: 1 hosts, 2 devices" in text
    code, text = health(tmp_path, CHIPS="4")
    assert code == 3 and text == "HealthError: host 0.0 sees 2 chips of 4\n"
