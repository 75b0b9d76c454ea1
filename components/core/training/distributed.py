"""Several processes as one training: a group that forms in bounded time, and the few things its members agree on.

Every rank is one process, as torchrun starts them (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). What the
ranks decide together travels between CPUs, so that no decision waits for a device. Without these variables there
is one process, no group, and each function here answers at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
POLL_S = 0.1


class GroupNotFormed(RuntimeError):
    """The ranks did not find each other in time; the text names those that are missing."""


@dataclass(frozen=True)
class World:
    """This process's place: its number, how many there are, and its number on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def start(backend: str = "", *, timeout_s: float = 300.0, collective_timeout_s: float = 1_800.0) -> World:
    """Joins the group that the environment describes and returns the place in it; call `end` at last.

    Args:
        backend: for tensors on the device: gloo or nccl; empty: nccl where there is a GPU, else gloo. What lies on
            the CPU goes by gloo in either case.
        timeout_s: how long to wait for the other ranks.
        collective_timeout_s: how long a collective may wait for another rank before gloo or NCCL give up.

    Raises:
        ValueError: the environment's variables are incomplete or contradict each other.
        GroupNotFormed: ranks are missing, or the meeting point can't be reached, or its port is taken.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return World()
    place = _place(os.environ)
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    if backend == "nccl":
        torch.cuda.set_device(place.local_rank)
    store = _meet(place, timeout_s)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else backend,
        store=store,
        rank=place.rank,
        world_size=place.size,
        timeout=timedelta(seconds=collective_timeout_s),
    )
    return place


def end() -> None:
    """Leaves the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> World:
    """Returns the place in the group that was started."""
    if not dist.is_initialized():
        return World()
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def any_rank(flag: bool) -> bool:
    """Returns whether any rank says so; every rank gets the same answer, and all have arrived here by then."""
    if world().size == 1:
        return flag
    flag_1 = torch.tensor([float(flag)])
    dist.all_reduce(flag_1, dist.ReduceOp.MAX)
    return bool(flag_1.item())


def wait_for_all() -> None:
    """Returns when every rank has arrived here."""
    any_rank(False)


def greatest(value: Tensor) -> Tensor:
    """Returns the greatest over the ranks, on the device and without waiting for it."""
    if world().size > 1:
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean(values: Tensor) -> Tensor:
    """Returns the mean over the ranks, on the device."""
    size = world().size
    if size > 1:
        dist.all_reduce(values)
        values = values / size
    return values


def of_all_ranks(value: float) -> list[float]:
    """Returns every rank's value, by rank."""
    size = world().size
    if size == 1:
        return [value]
    found = [torch.zeros(1, dtype=torch.float64) for _ in range(size)]
    dist.all_gather(found, torch.tensor([value], dtype=torch.float64))
    return [float(one) for one in found]


def objects_of_all_ranks(value: Any) -> list[Any]:
    """Returns every rank's value, of any kind, by rank."""
    size = world().size
    if size == 1:
        return [value]
    found: list[Any] = [None] * size
    dist.all_gather_object(found, value)
    return found


def from_first_rank(value: Any) -> Any:
    """Returns the first rank's value, of any kind but with tensors; what the others give is ignored."""
    if world().size == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def tensors_from_first_rank(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields the first rank's CPU tensors with their names, one by one, so that no other rank holds them all."""
    kinds = from_first_rank({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    for name, (shape, dtype) in kinds.items():
        tensor = tensors[name] if world().rank == 0 else torch.empty(shape, dtype=dtype)
        if world().size > 1:
            dist.broadcast(tensor, src=0)
        yield name, tensor


def _place(environment: Mapping[str, str]) -> World:
    missing = [name for name in VARIABLES if not environment.get(name)]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, although RANK or WORLD_SIZE is: "
            "start the ranks with torchrun, or unset all five for one process."
        )
    try:
        rank, size, local_rank, _ = (int(environment[n]) for n in (*VARIABLES[:3], "MASTER_PORT"))
    except ValueError as error:
        raise ValueError(f"RANK, WORLD_SIZE, LOCAL_RANK and MASTER_PORT are whole numbers: {error}.") from error
    if not 0 <= rank < size or local_rank < 0:
        raise ValueError(f"RANK={rank} and LOCAL_RANK={local_rank} of WORLD_SIZE={size}: ranks count from 0.")
    return World(rank, size, local_rank)


def _meet(place: World, timeout_s: float) -> Any:
    """Returns the store through which all ranks have been seen."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # then torchrun itself serves the store
    deadline = time.monotonic() + timeout_s
    try:
        server = dist.TCPStore(  # type: ignore[attr-defined]
            host,
            port,
            place.size,
            is_master=place.rank == 0 and not is_agents,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"ceteris/{attempt}", server)  # type: ignore[attr-defined]
        store.set(f"here/{place.rank}", "1")
        missing = list(range(place.size))
        while missing := [rank for rank in missing if not store.check([f"here/{rank}"])]:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
    except dist.DistError as error:
        problem = str(error).splitlines()[0]
        raise GroupNotFormed(
            f"Rank {place.rank} of {place.size} can't meet the others at {host}:{port} within {timeout_s:g} s "
            f"({problem}): check that rank 0 runs there and that MASTER_PORT is free."
        ) from error
    if missing:
        raise GroupNotFormed(
            f"Rank {place.rank} of {place.size} waited {timeout_s:g} s at {host}:{port} and has not seen "
            f"{'rank' if len(missing) == 1 else 'ranks'} {', '.join(map(str, missing))}: look at their logs."
        )
    return store
