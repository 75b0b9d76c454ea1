"""How a container of ours runs on this machine: as a pod would under Pod Security "restricted"."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, Mount

SCRATCH = "/tmp"
SHM_SIZE = "1g"
USER_WHEN_ROOT = 1000
PASSED_ON = ("AWS_", "CETERIS_", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
HOST = "host.docker.internal"


def run_options() -> dict[str, Any]:
    """Returns what `docker run` is given for every container, as docker-py names it."""
    return {
        "user": f"{os.getuid() or USER_WHEN_ROOT}:{os.getgid()}",
        "read_only": True,
        "tmpfs": {SCRATCH: "exec"},  # torch.compile loads what it has built there
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "shm_size": SHM_SIZE,
        "extra_hosts": {HOST: "host-gateway"},
    }


def mounts(command: Sequence[str], folders: Sequence[str]) -> list[Mount]:
    """Returns the folders that a container sees, each under the path that it has here.

    Args:
        command: Its command line; what it names by an absolute path it may read.
        folders: What it may write to.
    """
    writable = [Path(folder) for folder in folders]
    read = {path for path in _paths(command) if path.exists() and not any(path.is_relative_to(w) for w in writable)}
    outer = [path for path in sorted(read) if not any(parent in read for parent in path.parents)]
    return [
        *(Mount(str(path), str(path), type="bind") for path in writable),
        *(Mount(str(path), str(path), type="bind", read_only=True) for path in outer),
    ]


def gpus(runtimes: Iterable[str]) -> list[DeviceRequest]:
    """Returns the request for all GPUs, where the engine has NVIDIA's runtime."""
    return [DeviceRequest(count=-1, capabilities=[["gpu"]])] if "nvidia" in runtimes else []


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that a container has from this machine: addresses, credentials, threads."""
    return {name: value for name, value in environ.items() if name.startswith(PASSED_ON)}


def _paths(command: Sequence[str]) -> list[Path]:
    values = [value for word in command for value in word.partition("=")[2].split(",")]
    return [Path(value.removeprefix("file://")) for value in values if value.removeprefix("file://").startswith("/")]
