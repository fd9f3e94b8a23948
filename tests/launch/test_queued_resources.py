"""TPU VMs through queued resources: the life of a pod, and what can go wrong in it.

Each scenario runs with a fake gcloud, and (`-m slow`) with the real one, against the same fake API.
"""

import subprocess
import time


def test_a_pod_lives_is_preempted_comes_again_ends_and_is_deleted(tpu, cloud):
    steps = "--steps 60"
    watch = subprocess.Popen(
        tpu.argv("watch", "--yes", ENTRY=f"experiments/trainer.py {steps}"),
        cwd=tpu.clone,
        env=tpu.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    tpu.until(lambda: tpu.step() >= 12)
    first = set(cloud.folder.glob("127.*"))
    cloud.preempt("toy")
    out, err = watch.communicate(timeout=300)
    assert watch.returncode == 0, (out, err[-3000:])
    assert "waiting for 0 min WAITING_FOR_RESOURCES" in out and "lost, SUSPENDED by SERVICE" in out
    assert "deleted" in out and not cloud.requests and not cloud.nodes
    assert cloud.made == 2 and not first & set(cloud.folder.glob("127.*"))
    resumed = [line for line in tpu.log("0.0").splitlines() if line.startswith("resumed")]
    assert resumed[0] == "resumed at 0" and int(resumed[1].split()[-1]) >= 10
    assert tpu.step() >= 60 and "goodput" in out
