"""Reduces a tensor over all ranks, times it, and looks at every node's /dev/shm."""

import os
import shutil
import socket
import time
from typing import Any

import torch
import torch.distributed as dist

from components.core.training import distributed
from components.core.training.distributed import GroupNotFormed, World
from components.preflight.params import Params
from components.runtime.errors import StageFailure
from components.runtime.stage import Outcome, Stage

SHM = "/dev/shm"
GIB, MIB = 2**30, 2**20


def run(params: Params, stage: Stage) -> Outcome | None:
    """Returns what the first rank found; None on the others.

    Raises:
        StageFailure: The ranks don't meet, a sum is wrong, or something is smaller or slower than it should be.
    """
    try:
        place = distributed.start(timeout_s=params.timeout_s, collective_timeout_s=params.timeout_s)
    except GroupNotFormed as error:
        raise StageFailure(str(error)) from error
    try:
        ranks = distributed.objects_of_all_ranks(_look(params, place))
    finally:
        distributed.end()
    seconds = max(rank["seconds"] for rank in ranks)
    bus_gb_per_s = 2 * (place.size - 1) / place.size * params.message_mib * MIB / seconds / 1e9
    if problems := _problems(params, ranks, bus_gb_per_s):
        raise StageFailure(" ".join(problems))
    stage.log(
        "reduced", rank=place.rank, bus_gb_per_s=round(bus_gb_per_s, 3), shm_gib=round(ranks[place.rank]["shm_gib"], 1)
    )
    if place.rank:
        return None
    stage.out.write_json("ranks.json", ranks)
    return Outcome(
        kind="Preflight",
        files=["ranks.json"],
        counts={"ranks": place.size, "nodes": len({rank["host"] for rank in ranks})},
        cost={"bus_gb_per_s": round(bus_gb_per_s, 3)},
        metrics={"ranks": float(place.size)},
    )


def _look(params: Params, place: World) -> dict[str, Any]:
    """Returns what one rank finds; the tensor's sum over the ranks is known."""
    device = torch.device("cuda", place.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    expected = place.size * (place.size + 1) / 2
    start = 0.0
    for number in range(params.num_rounds + 1):
        message = torch.full((params.message_mib * MIB // 4,), float(place.rank + 1), device=device)
        if number == 1:
            _settle(device)
            start = time.monotonic()
        if place.size > 1:
            dist.all_reduce(message)
    _settle(device)
    seconds = max((time.monotonic() - start) / params.num_rounds, 1e-9)
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "is_right": bool((message == expected).all()),
        "seconds": seconds,
        "shm_gib": shutil.disk_usage(SHM).total / GIB,
        "is_shm_writable": os.access(SHM, os.W_OK),
    }


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _problems(params: Params, ranks: list[dict[str, Any]], bus_gb_per_s: float) -> list[str]:
    """Returns a sentence for everything that is wrong, the same on every rank."""
    found = []
    if wrong := [str(number) for number, rank in enumerate(ranks) if not rank["is_right"]]:
        found.append(f"The ranks {', '.join(wrong)} got a wrong sum: look at the network devices and NCCL's settings.")
    small = {
        rank["host"]: rank["shm_gib"]
        for rank in ranks
        if rank["shm_gib"] < params.min_shm_gib or not rank["is_shm_writable"]
    }
    if small:
        hosts = ", ".join(f"{host} ({size:.2f} GiB)" for host, size in small.items())
        found.append(f"{SHM} is below {params.min_shm_gib:g} GiB or read-only on {hosts}: raise the pool's shmGib.")
    if len(ranks) > 1 and bus_gb_per_s < params.min_bus_gb_per_s:
        found.append(
            f"The reduction moves {bus_gb_per_s:.2f} GB/s and not {params.min_bus_gb_per_s:g}: look at NCCL_DEBUG=INFO "
            "for the transport that it chose."
        )
    return found
