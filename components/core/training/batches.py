"""Batches as the loop handles them: counted, cut into micro-batches, and on the device before they are wanted.

A batch is a dataclass whose tensors and lists have one row per sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor


class Movable(Protocol):
    """A batch of any kind: it can be moved to a device."""

    def to(self, device: torch.device | str) -> Any:
        """Returns the batch on a device."""
        ...


BatchT = TypeVar("BatchT", bound=Movable)


@dataclass(frozen=True)
class Ready(Generic[BatchT]):
    """A batch on its device, the ids that it has (empty where it has none), and the seconds waited for it."""

    batch: BatchT
    ids: list[int]
    wait_s: float


def num_rows(batch: Any) -> int:
    """Returns how many samples a batch holds."""
    return next(len(value) for value in _columns(batch).values())


def split(batch: BatchT, num_parts: int) -> list[BatchT]:
    """Returns a batch cut into parts of equal length, in order.

    Raises:
        ValueError: its length is no multiple of num_parts.
    """
    if num_parts == 1:
        return [batch]
    columns = _columns(batch)
    length = num_rows(batch)
    if num_parts < 1 or length % num_parts:
        raise ValueError(
            f"num_micro_batches={num_parts} does not divide the {length} samples that a rank has of each batch: "
            "choose a divisor of batch_size / ranks."
        )
    size = length // num_parts
    cuts = [slice(start, start + size) for start in range(0, length, size)]
    return [replace(batch, **{name: value[cut] for name, value in columns.items()}) for cut in cuts]  # type: ignore[type-var]


def on_device(batches: Iterator[BatchT], device: torch.device) -> Iterator[Ready[BatchT]]:
    """Yields batches on the device; for a GPU, the next is copied from pinned memory while a step runs.

    A copy from ordinary memory would make the host wait until the device has reached it.
    """
    if device.type != "cuda":
        while (found := _next(batches)) is not None:
            batch, wait_s = found
            yield Ready(batch.to(device), _ids(batch), wait_s)
        return
    side = torch.cuda.Stream(device)
    ahead = _copied(batches, device, side)
    while ahead is not None:
        torch.cuda.current_stream(device).wait_stream(side)
        for value in _columns(ahead.batch).values():
            if isinstance(value, Tensor):
                value.record_stream(torch.cuda.current_stream(device))
        yield ahead
        ahead = _copied(batches, device, side)


def _copied(batches: Iterator[BatchT], device: torch.device, side: torch.cuda.Stream) -> Ready[BatchT] | None:
    found = _next(batches)
    if found is None:
        return None
    batch, wait_s = found
    tensors = {name: value for name, value in _columns(batch).items() if isinstance(value, Tensor)}
    pinned: Any = replace(batch, **{name: t.pin_memory() if t.is_cpu else t for name, t in tensors.items()})  # type: ignore[type-var]
    with torch.cuda.stream(side):
        return Ready(pinned.to(device), _ids(batch), wait_s)


def _next(batches: Iterator[BatchT]) -> tuple[BatchT, float] | None:
    start = time.perf_counter()
    batch = next(batches, None)
    return None if batch is None else (batch, time.perf_counter() - start)


def _columns(batch: Any) -> dict[str, Any]:
    found = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor | list)}


def _ids(batch: Any) -> list[int]:
    ids_B = getattr(batch, "ids_B", None)
    return [] if ids_B is None else ids_B.tolist()
