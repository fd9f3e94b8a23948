"""RUN.env: a pod and what runs on it, KEY=value a line, read without any expansion.

    python -m qwen3.supervise.pod_settings RUN.env [KEY=value ...]

prints as JSON what follows from the keys, or says in one line what is wrong. It needs the standard
library alone: launch/pod.py asks where nothing is installed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from qwen3.plan.slice_types import SliceType, slice_type

SSH = ("external", "internal", "iap")
CAPACITIES = ("spot", "on-demand", "reserved", "flex-start")
NEEDED = {  # by backend
    "queued_resources": ("PROJECT", "ZONE"),
    "gke": ("PROJECT", "ZONE", "CLUSTER", "IMAGE"),
    "loopback": (),
}


@dataclass(frozen=True)
class PodSettings:
    """The keys of RUN.env, and what follows from them. Raises ValueError for a wrong one."""

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

    def __post_init__(self) -> None:
        grant, cost = f"{self.TYPE}@{self.ZONE}:{self.CAPACITY}", self.dollars(self.MAX_HOURS)
        missing = [key for key in NEEDED.get(self.BACKEND, ()) if not getattr(self, key)]
        place, limit = self.BUCKET.startswith(("gs://", "/")), self.MAX_COST
        checks = {  # what is said unless it is true
            f"RUN={self.RUN} is no name": re.fullmatch("[a-z][a-z0-9-]{0,26}[a-z0-9]", self.RUN),
            f"BACKEND={self.BACKEND}: known are {', '.join(NEEDED)}": self.BACKEND in NEEDED,
            f"CAPACITY={self.CAPACITY}: known are {', '.join(CAPACITIES)}": (
                self.CAPACITY in CAPACITIES
            ),
            f"SSH={self.SSH}: known are {', '.join(SSH)}": self.SSH in SSH,
            f"SLICES={self.SLICES}: at least 1": self.SLICES >= 1,
            f"BACKEND={self.BACKEND} needs {', '.join(missing)}": not missing,
            f"BUCKET={self.BUCKET}: neither gs:// nor a folder": place,
            f"TYPE={self.TYPE} does not come with BACKEND={self.BACKEND}": (
                self.BACKEND in self.slice_type.hosts
            ),
            f"{grant} is not in ALLOW, and would be billed": grant in (self.ALLOW or grant).split(),
            "SECRETS are for queued resources alone": not self.SECRETS or self.BACKEND != "gke",
            "MAX_COST needs PRICE and MAX_HOURS": cost or not limit,
            f"MAX_HOURS may cost ${cost:,.0f}, over MAX_COST": cost <= (limit or cost),
        }
        for words, true in checks.items():
            if not true:
                raise ValueError(words)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """Of texts by key, others among them. Raises ValueError for a number that is none."""
        typed: dict[str, Any] = {}
        for key, kind in KEYS.items():
            try:
                if key in values:
                    typed[key] = kind(values[key])
            except ValueError:
                raise ValueError(f"{key}={values[key]} is no number") from None
        return cls(**typed)

    @property
    def slice_type(self) -> SliceType:
        return slice_type(self.TYPE)

    @property
    def chips(self) -> int:
        return self.slice_type.chips * self.SLICES

    @property
    def hosts(self) -> list[str]:
        """Every host as SLICE.HOST."""
        hosts = range(self.slice_type.hosts[self.BACKEND])
        return [f"{number}.{host}" for number in range(self.SLICES) for host in hosts]

    @property
    def folder(self) -> str:
        """Of the run in the bucket: work/ is its workdir, pod/ what hosts and pod.py report."""
        return f"{self.BUCKET.rstrip('/')}/runs/{self.RUN}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of ENV."""
        return dict(pair.partition("=")[::2] for pair in shlex.split(self.ENV))

    def dollars(self, hours: float) -> float:
        return hours * self.PRICE * self.chips

    def host_lines(self) -> str:
        """The settings as bash reads them on every host: the keys, and what follows from them."""
        values = {
            **{key: getattr(self, key) for key in KEYS},
            "FOLDER": self.folder,
            "HOSTS": len(self.hosts),
            "CHIPS": self.chips // len(self.hosts),  # of one host
            # A host that remembers listings never sees the checkpoints that another one writes.
            "FSSPEC_GCS": '{"use_listings_cache": false}',
            **self.variables,
        }
        return "".join(f"{key}={shlex.quote(str(value))}\n" for key, value in values.items())

    def to_dict(self) -> dict[str, Any]:
        """The keys, and for launch/pod.py what follows from them."""
        names = ("chips", "hosts", "folder")
        return {
            **dataclasses.asdict(self),
            **{name: getattr(self, name) for name in names},
            "topology": self.slice_type.topology,
            "runtime": self.slice_type.runtime,
            "dollars_an_hour": self.dollars(1),
            "host_lines": self.host_lines(),
        }


# Annotations are texts here: "str", "int" or "float".
KEYS = {
    field.name: {"str": str, "int": int, "float": float}[str(field.type)]
    for field in dataclasses.fields(PodSettings)
}


def read(path: str | Path, changes: Iterable[str] = ()) -> PodSettings:
    """The run that a file describes. changes: "KEY=value" that come before the file's.

    Raises ValueError with the line and the known keys.
    """
    values = {}
    for number, line in enumerate([*Path(path).read_text().splitlines(), *changes], 1):
        key, equals, text = (part.strip() for part in line.partition("="))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if key not in KEYS or not equals:
            raise ValueError(f"{path}:{number}: no key {key}; keys are {', '.join(KEYS)}")
        values[key] = text
    missing = [key for key in ("RUN", "ENTRY", "TYPE", "BUCKET") if not values.get(key)]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} is missing")
    try:
        return PodSettings.of(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_host_lines(text: str) -> PodSettings:
    """What `PodSettings.host_lines` wrote."""
    return PodSettings.of(dict(word.partition("=")[::2] for word in shlex.split(text)))


if __name__ == "__main__":
    try:
        print(json.dumps(read(sys.argv[1], sys.argv[2:]).to_dict()))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
