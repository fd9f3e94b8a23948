"""GKE: the image, the workload, its containers, and the manifest that xpk makes of the command."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from trial_pods import HERE, Pod, end_hosts, hosts_python

KEYS = {
    "BACKEND": "gke",
    "PROJECT": "p",
    "ZONE": "us-east5-b",
    "CLUSTER": "c",
    "IMAGE": "registry/qwen3",
    "TYPE": "v6e-8",
    "ENTRY": "experiments/trainer.py --steps 100000",
}
GOLDEN = HERE / "xpk_manifest.yaml"  # of xpk 1.16.0, for the command that `up` runs below


@pytest.fixture
def gke(clone, tmp_path):
    """Two hosts, with fakes of docker, xpk and kubectl."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("docker", "xpk", "kubectl"):
        (tools / name).symlink_to(HERE / "bin" / "kubernetes")
    (tmp_path / "gke" / "pods").mkdir(parents=True)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "FAKE_GKE": str(tmp_path / "gke"),
        "FAKE_HOSTS": "2",
        "FAKE_PYTHON": hosts_python(tools),
    }
    pod = Pod(clone, tmp_path, environment, **KEYS)
    yield pod
    end_hosts(tmp_path / "gke" / "pods")


def calls(pod, tool):
    lines = (pod.folder / "gke" / "calls").read_text().splitlines()
    return [call[1:] for call in map(json.loads, lines) if call[0] == tool]


def test_a_workload_starts_by_itself_is_found_running_and_is_deleted(gke):
    assert "active: 8 chips on 2 hosts" in gke.ok("up")
    gke.until(lambda: gke.step() >= 3)  # before `run`: a queue may let it start at night
    assert "was running on 2" in gke.ok("run")
    gke.ok("stop")
    assert gke.ok("status").count(" stopped ") == 2
    build, push = calls(gke, "docker")
    assert build[0] == "build" and push == ["push", build[3].removeprefix("--tag=")]
    create = next(call for call in calls(gke, "xpk") if "create" in call)
    assert {"--num-slices=1", "--tpu-type=v6e-8", "--spot", "--max-restarts=50"} <= set(create)
    assert all("--context=gke_p_us-east5_c" in call for call in calls(gke, "kubectl"))
    assert "deleted" in gke.ok("down", "--yes") and "there is no pod" in gke.ok("down", "--yes")


def test_containers_do_not_take_another_commit(gke, clone):
    gke.ok("up")
    other = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "x"]
    subprocess.run(["git", *other], cwd=clone, check=True)
    code, text = gke("run")
    assert code == 2 and "the workload runs registry/qwen3:" in text and "down, then up" in text


def test_a_failed_jobset_is_a_lost_pod(gke):
    gke.ok("up")
    failed = {"type": "Failed", "status": "True", "message": "a pod failed"}
    gke.environment["FAKE_CONDITIONS"] = json.dumps([failed])
    code, text = gke("status", ENTRY=KEYS["ENTRY"])
    assert "lost Failed a pod failed" in text


def test_the_manifest_that_xpk_makes_is_a_valid_job_and_jobset():
    """The Job by Kubernetes' own schema; the JobSet by the fields of its v1alpha2 that it uses."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load(GOLDEN.read_text())
    spec = jobset["spec"]
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(spec) <= {"ttlSecondsAfterFinished", "failurePolicy", "replicatedJobs", "network"}
    assert set(spec["failurePolicy"]) == {"maxRestarts", "rules"}
    assert spec["failurePolicy"]["maxRestarts"] == 50
    (job,) = spec["replicatedJobs"]
    assert set(job) == {"name", "replicas", "template"} and job["replicas"] == 2
    pod = job["template"]["spec"]["template"]["spec"]
    # What xpk leaves empty, the API server takes as absent.
    pod = {key: value for key, value in pod.items() if value is not None}
    job["template"]["spec"]["template"] = {"spec": pod}
    document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "toy"}}
    validate.validate({**document, "spec": job["template"]["spec"]}, "1.32", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(
            {**document, "spec": {**job["template"]["spec"], "paralelism": 2}}, "1.32", strict=True
        )


def test_the_manifest_holds_what_pod_py_counts_on():
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load(GOLDEN.read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job["template"]["metadata"]["labels"]["xpk.google.com/workload"] == "toy"
    assert job["parallelism"] == job["completions"] == 2  # hosts of v6e-8 on GKE
    assert pod["terminationGracePeriodSeconds"] == 180 and container["name"] == "jax-tpu"
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["operator"] == "NotIn" and {42, 137, 143} <= set(codes["values"])
    assert "exec bash /root/qwen3/toy/code-COMMIT/launch/worker.sh run" in container["command"][2]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("xpk"), reason="xpk is not installed here (a venv of its own)")
def test_xpk_still_makes_that_manifest(gke, tmp_path):
    """In a dry run, without a cluster; the environment's PATH names the real xpk."""
    gke.environment["PATH"] = os.environ["PATH"]
    text = gke.ok("plan", SLICES=2, STOP_SECONDS=180)
    line = next(line for line in text.splitlines() if line.startswith("+ xpk workload create"))
    file = tmp_path / "manifest.yaml"
    dry = f"{line[2:]} --dry-run --output-manifest-file={file}"
    subprocess.run(["bash", "-c", dry], check=True, env={**os.environ, "HOME": str(tmp_path)})
    words = ("priorityClassName",)
    lines = [
        [x for x in f.read_text().splitlines() if not any(w in x for w in words)]
        for f in (file, GOLDEN)
    ]
    assert lines[0] == lines[1]


def test_the_dockerfile_copies_what_is_there():
    """There is no docker here: every file that it names exists in the commit."""
    root = Path(__file__).parents[2]
    for line in (root / "launch" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (root / name).exists(), name
