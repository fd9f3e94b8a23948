"""A small Google Cloud on loopback: the TPU API (v2), some of Compute, every host's metadata.

`Cloud.states` are the states that a new request goes through, one a look. Hosts are folders, which
`bin/ssh` and `bin/scp` enter by address; an address is 127.1.NODE.HOST+1, and a node made anew has
new ones, so that the disks of lost hosts are lost. What goes wrong is said by attributes of the
Cloud and by files in `faults`, named by the host's number: down, hang, flaky (once), fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

HERE = Path(__file__).parent
READY = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
NO_CAPACITY = "There is no more capacity in the zone; you can try in another zone"


class Cloud:
    """The state of the cloud; tests change it while programs talk to it."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder, self.hosts, self.states = folder, hosts, list(READY)
        self.requests: dict[str, dict] = {}
        self.nodes: dict[str, dict] = {}
        self.calls: list[tuple[str, str]] = []
        self.refusal: tuple[int, str, str] | None = None  # of the next request: code, status, text
        self.types, self.reservations = {"v4-16", "v6e-16"}, {}
        self.preempted: set[str] = set()  # addresses whose metadata tells of a preemption
        self.slices: dict[str, str] = {}  # address -> number of slices that its metadata tells
        self.made = 0
        (folder / "faults").mkdir(parents=True)
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"cloud": self})
        )
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What makes gcloud (the real one too) talk to this cloud."""
        home = self.folder / "home"
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        url = f"http://127.0.0.1:{self.port}"
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"{url}/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{url}/compute/v1/",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CONFIG": str(home / "gcloud"),
            "HOME": str(home),
            "FAKE_CLOUD": str(self.folder),
            "FAKE_METADATA": f"127.0.0.1:{self.port}",
        }

    def preempt(self, name: str) -> None:
        """Take the request's nodes away: processes die, disks are gone."""
        request = self.requests[name]
        for node in [node for node in self.nodes.values() if node["queuedResource"] == name]:
            node["state"] = "PREEMPTED"
            for endpoint in node["networkEndpoints"]:
                self.kill_host(endpoint["ipAddress"])
        request["states"] = ["SUSPENDED"]

    def kill_host(self, address: str) -> None:
        """Kill all that runs on a host and remove its disk."""
        folder = self.folder / address
        for name in (*folder.glob("qwen3/lock"), *folder.glob("qwen3/*/host/child")):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(name.read_text().split()[-1])
                os.kill(pid, signal.SIGKILL)
                os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        for folder in self.folder.glob("127.*"):
            self.kill_host(folder.name)
        self.server.shutdown()

    def create(self, parent: str, name: str, body: dict) -> tuple[int, dict]:
        if self.refusal:
            code, status, message = self.refusal
            return code, {"error": {"code": code, "status": status, "message": message}}
        if name in self.requests:
            text = f"Resource '{parent}/queuedResources/{name}' already exists"
            return 409, {"error": {"code": 409, "status": "ALREADY_EXISTS", "message": text}}
        self.requests[name] = {"body": body, "parent": parent, "states": list(self.states)}
        return 200, {"name": f"{parent}/operations/op-{name}", "done": True, "response": {}}

    def show(self, name: str) -> dict:
        """The request as it is described; each look takes it one state further."""
        request = self.requests[name]
        states = request["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        spec = request["body"]["tpu"]["nodeSpec"][0]
        several = spec.get("multisliceParams") or spec.get("multiNodeParams")
        names = [spec["nodeId"]] if "nodeId" in spec else []
        if several:
            names = [f"{several['nodeIdPrefix']}-{i}" for i in range(int(several["nodeCount"]))]
        if state == "ACTIVE":
            for place, node in enumerate(names):
                if node not in self.nodes:
                    self._boot(request["parent"], name, node, place, spec["node"])
        about = {"state": state, "stateInitiator": "SERVICE"}
        if state == "FAILED":
            about["failedData"] = {"error": {"code": 8, "message": NO_CAPACITY}}
        nodes = [{**spec, "nodeId": node} for node in names]
        full = f"{request['parent']}/queuedResources/{name}"
        return {**request["body"], "name": full, "state": about, "tpu": {"nodeSpec": nodes}}

    def _boot(self, parent: str, request: str, name: str, place: int, spec: dict) -> None:
        self.made += 1
        addresses = [f"127.1.{self.made}.{host + 1}" for host in range(self.hosts)]
        for host, address in enumerate(addresses):
            (self.folder / address).mkdir()
            (self.folder / address / "number").write_text(str(place * self.hosts + host))
        self.nodes[name] = {
            "name": f"{parent}/nodes/{name}",
            "id": str(self.made),
            "state": "READY",
            "health": "HEALTHY",
            "apiVersion": "V2",
            "queuedResource": request,
            "acceleratorType": spec["acceleratorType"],
            "labels": spec.get("labels", {}),
            "metadata": {},
            "networkEndpoints": [
                {"ipAddress": address, "port": 8470, "accessConfig": {"externalIp": address}}
                for address in addresses
            ],
        }

    def metadata(self, address: str, key: str) -> str | None:
        """One host's metadata."""
        node = next(
            (
                (place, node)
                for place, node in enumerate(self.nodes.values())
                if any(end["ipAddress"] == address for end in node["networkEndpoints"])
            ),
            None,
        )
        if node is None:
            return None
        slices = self.slices.get(address, str(len(self.nodes)))
        environment = f"ACCELERATOR_TYPE: 'v4-16'\nMEGASCALE_NUM_SLICES: '{slices}'\n"
        return {
            "attributes/agent-worker-number": str(int(address.rpartition(".")[2]) - 1),
            "attributes/tpu-env": environment + f"MEGASCALE_SLICE_ID: '{node[0]}'\n",
            "preempted": "TRUE" if address in self.preempted else "FALSE",
        }.get(key)


class _Handler(BaseHTTPRequestHandler):
    """Routes of the APIs."""

    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: dict | str, code: int = 200) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def lost(self, what: str) -> None:
        text = f"Resource '{what}' was not found"
        self.answer({"error": {"code": 404, "status": "NOT_FOUND", "message": text}}, 404)

    def handle_all(self) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}") if length else {}
        self.cloud.calls.append((self.command, url.path))
        if match := re.fullmatch(r"/([\d.]+)/computeMetadata/v1/instance/(.*)", url.path):
            value = self.cloud.metadata(*match.groups())
            return self.answer(value or "", 200 if value is not None else 404)
        if match := re.fullmatch(r"/compute/v1/projects/([^/]+)", url.path):
            return self.answer({"kind": "compute#project", "name": match[1], "id": "1"})
        if match := re.fullmatch(r"/compute/v1/.*/reservations/(.*)", url.path):
            found = self.cloud.reservations.get(match[1])
            return self.answer(found) if found else self.lost(match[1])
        match = re.fullmatch(
            r"/v[12](?:alpha1)?/(projects/[^/]+/locations/[^/]+)/(\w+)(?:/(.*))?", url.path
        )
        if not match:
            return self.lost(url.path)
        parent, kind, name = match.groups()
        return getattr(self, kind)(parent, name, query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_all

    def acceleratorTypes(self, parent: str, name: str | None, query: dict, body: dict) -> None:  # noqa: N802
        types = [
            {"name": f"{parent}/acceleratorTypes/{kind}", "type": kind} for kind in self.cloud.types
        ]
        self.answer({"acceleratorTypes": types})

    def queuedResources(self, parent: str, name: str | None, query: dict, body: dict) -> None:  # noqa: N802
        cloud = self.cloud
        if self.command == "POST":
            code, text = cloud.create(parent, query["queuedResourceId"], body)
            return self.answer(text, code)
        if name is None:
            return self.answer(
                {"queuedResources": [cloud.show(name) for name in list(cloud.requests)]}
            )
        if name not in cloud.requests:
            return self.lost(f"{parent}/queuedResources/{name}")
        if self.command == "GET":
            return self.answer(cloud.show(name))
        assert query.get("force", "").lower() == "true", "nodes are only deleted by force"
        del cloud.requests[name]
        for node in [n for n, about in cloud.nodes.items() if about["queuedResource"] == name]:
            for endpoint in cloud.nodes.pop(node)["networkEndpoints"]:
                cloud.kill_host(endpoint["ipAddress"])
        return self.answer(
            {"name": f"{parent}/operations/del-{name}", "done": True, "response": {}}
        )

    def nodes(self, parent: str, name: str | None, query: dict, body: dict) -> None:
        nodes = self.cloud.nodes
        if name is None:
            return self.answer({"nodes": list(nodes.values())})
        name, _, action = name.partition(":")
        if name not in nodes:
            return self.lost(f"{parent}/nodes/{name}")
        if action == "getGuestAttributes":
            key = {"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAA"}
            keys = [{"queryPath": "", "queryValue": {"items": [key]}}] * self.cloud.hosts
            return self.answer({"guestAttributes": keys})
        if self.command == "PATCH":
            return self.answer(_done(f"{parent}/operations/upd-{name}", nodes[name]["name"]))
        return self.answer(nodes[name])

    def operations(self, parent: str, name: str, query: dict, body: dict) -> None:
        node = f"{parent}/nodes/{name[4:]}" if name.startswith("upd-") else ""
        self.answer(_done(f"{parent}/operations/{name}", node))


def _done(name: str, node: str) -> dict:
    response = {"@type": "type.googleapis.com/google.cloud.tpu.v2.Node", "name": node}
    return {"name": name, "done": True, "response": response if node else {}}
