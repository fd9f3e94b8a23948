"""RUN.env: a pod and what runs on it, KEY=value a line, read without any expansion."""

import importlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

from pods import types
from pods.command import Answer, Refused, call, dry

SSH = {"external": "", "internal": "--internal-ip", "iap": "--tunnel-through-iap"}
CAPACITIES = ("spot", "on-demand", "reserved", "flex-start")
NEEDED = {"queued_resources": ["PROJECT", "ZONE"], "loopback": []}
NEEDED["gke"] = ["PROJECT", "ZONE", "CLUSTER", "IMAGE"]


@dataclass(frozen=True)
class Run:
    """The keys of an environment file, and what follows from them."""

    RUN: str  # its name: up to 28 small letters, digits and dashes
    ENTRY: str  # program and arguments: experiments/pretrain_full.py 30b-a3b --set a.b=c
    TYPE: str  # of a slice: v4-16, v5litepod-16, v5p-16, v6e-16, tpu7x-16; loopback: cpu-4
    BUCKET: str  # gs://NAME, or a folder that all hosts share
    BACKEND: str = "queued_resources"  # or gke, loopback
    PROJECT: str = ""  # of Google Cloud
    ZONE: str = ""  # us-east5-b
    SLICES: int = 1  # that train together
    CAPACITY: str = "spot"  # or on-demand, reserved, flex-start
    RESERVATION: str = ""  # its name, with CAPACITY=reserved
    ALLOW: str = ""  # grants, "TYPE@ZONE:CAPACITY ..."; empty: anything
    PLAN: str = ""  # arguments of `qwen3 plan` for the step; none: memory is not checked
    PRICE: float = 0.0  # dollars per chip and hour; 0: unknown
    PRICE_SOURCE: str = ""  # where and when it was read
    MAX_HOURS: float = 0.0  # of the pod, after which `watch` stops the run; 0: no limit
    MAX_COST: float = 0.0  # dollars, likewise; `up` refuses more
    WAIT_HOURS: float = 24.0  # for capacity; then the request is withdrawn
    DATA: str = ""  # "gs://FROM /TO": copied to every host's disk at set-up
    SECRETS: str = ""  # "VARIABLE=ENTRY ..." of Secret Manager, which every host reads
    ENV: str = ""  # "A=b ...": more environment variables
    SERVICE_ACCOUNT: str = ""  # of the hosts; empty: the project's default
    NETWORK: str = ""  # NETWORK/SUBNETWORK; empty: default
    SSH: str = "external"  # or internal (from inside the network), iap
    CLUSTER: str = ""  # gke: made by xpk
    IMAGE: str = ""  # gke: REGISTRY/NAME, without tag
    START_MINUTES: float = 60.0  # until the first step (restore, compilation)
    HANG_MINUTES: float = 20.0  # between two heartbeats after that
    STOP_SECONDS: int = 180  # for saving, once told to stop
    TRIES: int = 6  # attempts in a row without a new checkpoint
    BEAT_SECONDS: int = 30  # between a host's reports to the bucket
    CALL_SECONDS: float = 300.0  # for one command on all hosts; six times that for set-up
    POLL_SECONDS: float = 30.0  # between two looks at the pod

    command: Callable[..., Answer] = call

    def __post_init__(self) -> None:
        grant, cost = f"{self.TYPE}@{self.ZONE}:{self.CAPACITY}", self.dollars(self.MAX_HOURS)
        missing = [key for key in NEEDED.get(self.BACKEND, ()) if not getattr(self, key)]
        place, limit = self.remote or self.BUCKET.startswith("/"), self.MAX_COST
        checks = {  # what is said unless it is true
            f"RUN={self.RUN} is no name": re.fullmatch("[a-z][a-z0-9-]{0,26}[a-z0-9]", self.RUN),
            f"BACKEND={self.BACKEND}: known are {', '.join(NEEDED)}": self.BACKEND in NEEDED,
            f"CAPACITY={self.CAPACITY}: known are {CAPACITIES}": self.CAPACITY in CAPACITIES,
            f"SSH={self.SSH}: known are {', '.join(SSH)}": self.SSH in SSH,
            f"BACKEND={self.BACKEND} needs {', '.join(missing)}": not missing,
            f"BUCKET={self.BUCKET}: neither gs:// nor a folder": place,
            f"TYPE={self.TYPE} does not come with BACKEND={self.BACKEND}": (
                self.BACKEND in types.parse(self.TYPE).generation.backends.split()
            ),
            f"{grant} is not in ALLOW, and would be billed": grant in (self.ALLOW or grant).split(),
            "SECRETS are for queued resources alone": not self.SECRETS or self.BACKEND != "gke",
            "MAX_COST needs PRICE and MAX_HOURS": cost or not limit,
            f"MAX_HOURS may cost ${cost:,.0f}, over MAX_COST": cost <= (limit or cost),
        }
        for words, true in checks.items():
            if not true:
                raise Refused(words)

    @property
    def dry(self) -> bool:
        return self.command is dry

    @property
    def backend(self) -> ModuleType:
        return importlib.import_module(f"pods.{self.BACKEND}")

    @property
    def remote(self) -> bool:
        return self.BUCKET.startswith("gs://")

    @property
    def chips(self) -> int:
        return types.parse(self.TYPE).chips * self.SLICES

    @property
    def hosts(self) -> list[str]:
        """Every host as SLICE.HOST."""
        hosts = types.parse(self.TYPE).hosts(self.BACKEND)
        return [f"{slice}.{host}" for slice in range(self.SLICES) for host in range(hosts)]

    @property
    def folder(self) -> str:
        """Of the run in the bucket: work/ is its workdir, pod/ what hosts and pod.py report."""
        return f"{self.BUCKET.rstrip('/')}/runs/{self.RUN}"

    def dollars(self, hours: float) -> float:
        return hours * self.PRICE * self.chips

    def host_settings(self, start: str, commit: str) -> str:
        """run.env, which worker.sh reads. `start` names this start: logs of each lie apart."""
        flags = types.parse(self.TYPE).generation.flags.split()
        if self.SLICES > 1:
            flags.append("megascale_abort_on_hangs=true")  # a silent hang becomes an exit
        command = [*shlex.split(self.ENTRY), "--workdir", f"{self.folder}/work"]
        command += ["--distributed"] if len(self.hosts) > 1 else []
        settings = {
            **{key: getattr(self, key) for key in KEYS},
            "START": start,
            "QWEN3_REVISION": commit,
            "FOLDER": self.folder,
            "HOSTS": len(self.hosts),
            "CHIPS": self.chips // len(self.hosts),  # of one host
            "START_SECONDS": 60 * self.START_MINUTES,
            "HANG_SECONDS": 60 * self.HANG_MINUTES,
            "LIBTPU_INIT_ARGS": " ".join(f"--{flag}" for flag in flags),
            "JAX_PLATFORMS": "cpu" if self.BACKEND == "loopback" else "tpu,cpu",
            "JAX_COMPILATION_CACHE_DIR": f"{self.BUCKET.rstrip('/')}/cache",
            # A host that remembers listings never sees the checkpoints that another one writes.
            "FSSPEC_GCS": '{"use_listings_cache": false}',
            **dict(pair.partition("=")[::2] for pair in shlex.split(self.ENV)),
        }
        lines = [f"{key}={shlex.quote(str(value))}" for key, value in settings.items()]
        return "\n".join([*lines, f"COMMAND=({shlex.join(command)})", ""])


KEYS = {field.name: field.type for field in fields(Run) if field.name.isupper()}


def read(path: str, command: Callable[..., Answer]) -> Run:
    """The run that a file describes; Refused with the line and the known keys."""
    values = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        key, equals, text = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if key not in KEYS or not equals:
            raise Refused(f"{path}:{number}: no key {key}; keys are {', '.join(KEYS)}")
        try:
            values[key] = KEYS[key](text)
        except ValueError:
            raise Refused(f"{path}:{number}: {key}={text} is no number") from None
    missing = [key for key in ("RUN", "ENTRY", "TYPE", "BUCKET") if not values.get(key)]
    if missing:
        raise Refused(f"{path}: {', '.join(missing)} is missing")
    return Run(**values, command=command)
