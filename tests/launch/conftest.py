"""A clone of this tree's launch/ with a small program in it, and pods that are made from it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_cloud import Cloud
from trial_pods import HERE, ROOT, STAND_IN, Host, Pod, end_hosts, hosts_python

GIT = ["git", "-c", "user.name=tester", "-c", "user.email=tester@localhost"]
REAL = shutil.which("gcloud")


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A repository of its own, so that a dirty tree here is none there."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("launch", "src"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    (root / STAND_IN).unlink()  # of which no commit knows
    (root / "experiments").mkdir()
    for name in ("trainer.py", "tiny_pod.py"):
        shutil.copy(HERE / name, root / "experiments")
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    (root / ".gitignore").write_text(f"__pycache__/\n{STAND_IN}\n")
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "a commit"], cwd=root, check=True)
    return root


@pytest.fixture
def host(clone, tmp_path):
    """host(KEY=value, ...) makes one."""
    yield lambda **keys: Host(clone, tmp_path, **keys)
    end_hosts(tmp_path)


@pytest.fixture
def loopback(clone, tmp_path):
    """A pod of two hosts on this machine."""
    pod = Pod(clone, tmp_path, BACKEND="loopback", TYPE="cpu-4")
    yield pod
    end_hosts(pod.run / "hosts")


@pytest.fixture
def cloud(tmp_path):
    """Two hosts a node."""
    cloud = Cloud(tmp_path / "cloud", hosts=2)
    yield cloud
    cloud.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slow)])
def tpu(request, clone, cloud, tmp_path):
    """A pod of queued resources, v4-16, through a fake gcloud, and the real one if installed."""
    if request.param == "real" and REAL is None:
        pytest.skip("gcloud is not installed here")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("ssh", "scp", *(["gcloud"] if request.param == "fake" else [])):
        (tools / name).symlink_to(HERE / "bin" / name)
    environment = {
        **cloud.environment(),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "FAKE_PYTHON": hosts_python(tools),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    key = Path(environment["HOME"], ".ssh", "google_compute_engine")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pod = Pod(clone, tmp_path, environment, TYPE="v4-16", PROJECT="p", ZONE="us-central2-b")
    pod.real = request.param == "real"
    return pod
