"""Checkpoints that are whole or invisible: safetensors, then the JSON that vouches for them.

The JSON is written last and holds the sha256 of the tensors, so that a crash in between leaves nothing that
`latest` would take. A checkpoint whose tensors don't match their hash is passed over for the one before. No
pickle anywhere.

A save is one copy into memory that is kept from save to save (pinned, for a GPU). It is made while the next step
computes its gradient, since tensors change only when that is applied; a thread then hashes and writes from that memory,
without a second copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from components.core.training.sharding import is_sharded, whole

_LOG = logging.getLogger(__name__)
_JSON_NAME = re.compile(r"step-(\d+)\.json")
_PART_BYTES = 16 << 20
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Tell = Callable[..., None]  # called with the name of what happened, and facts by keyword


class Writable(Protocol):
    """A file to write to."""

    def write(self, data: Any, /) -> int:
        """Writes bytes."""
        ...


class CheckpointFolder(Protocol):
    """What is needed of a folder; components/runtime/storage.py has it for disks and S3."""

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file; FileNotFoundError where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        ...

    def writer(self, name: str) -> AbstractContextManager[Any]:
        """Returns a file to write to, which appears whole when its block ends, or not at all."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """Returns the sorted names that begin with a prefix."""
        ...

    def delete(self, name: str) -> None:
        """Deletes a file."""
        ...


def log_event(event: str, **facts: Any) -> None:
    """Logs an event as a warning: for callers that don't listen themselves."""
    _LOG.warning("%s %s", event, " ".join(f"{name}={value}" for name, value in facts.items()))


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: the number of steps done, the tensors, and whatever else fits in JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a run was started with, and which of it may change when it is resumed.

    Attributes:
        values: anything that fits in JSON.
        changeable: names in values.
    """

    values: dict[str, Any] = field(default_factory=dict)
    changeable: frozenset[str] = frozenset()

    def changes_since(self, saved: dict[str, Any]) -> dict[str, list[Any]]:
        """Returns what has changed, as name: [before, now].

        Raises:
            ValueError: something has that may not.
        """
        now = json.loads(json.dumps(self.values))
        changes = {
            name: [saved.get(name), now.get(name)]
            for name in sorted(saved.keys() | now.keys())
            if saved.get(name) != now.get(name)
        }
        refused = [f"{n} was {old} and is {new}" for n, (old, new) in changes.items() if n not in self.changeable]
        if refused:
            allowed = ", ".join(sorted(self.changeable)) or "nothing"
            raise ValueError(
                f"The run was begun with other settings ({'; '.join(refused)}); only {allowed} may change when it is "
                "resumed: set the others back, or choose another folder."
            )
        return changes


NO_SETTINGS = Settings()


class Checkpoints:
    """The checkpoints of one run in one folder, written in the background.

    Args:
        folder: where.
        keep: how many whole checkpoints stay; 2 or more survive the damage of the newest.
        tell: called with `checkpoint_damaged` (step, problem) and `checkpoint_waited` (step, seconds).

    Attributes:
        committed_at: when the last save of this process was committed, in seconds since 1970; 0: none yet.
    """

    def __init__(self, folder: CheckpointFolder, keep: int = 2, tell: Tell = log_event) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: keep 1 checkpoint or more, 2 to survive the damage of the newest.")
        self._folder, self._keep, self._tell = folder, keep, tell
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._copier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-copy")
        self._copying: _Copying | None = None
        self._pending: Future[None] | None = None
        self._image: _Image | None = None
        self._damaged: set[int] = set()
        self.committed_at = 0.0

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Copies the tensors and returns; the copy is written in the background, after the one before it.

        Raises:
            OSError: the save before this one failed.
        """
        self.begin(step, tensors, facts)
        self.wait_until_copied()

    def begin(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Begins a save and returns; the tensors must not change before `wait_until_copied`.

        Raises:
            OSError: the save before this one failed.
        """
        start = time.monotonic()
        self.flush()
        waited_s = time.monotonic() - start
        if waited_s > 1:
            self._tell("checkpoint_waited", step=step, seconds=round(waited_s, 3))
        if self._image is None or not self._image.fits(tensors):
            self._image = _Image(tensors)
        self._copying = _Copying(self._image, tensors, self._copier)
        facts = json.loads(json.dumps(facts))
        self._pending = self._writer.submit(self._write, step, self._image, self._copying, facts)

    def wait_until_copied(self) -> None:
        """Returns when the tensors of a save that was begun may change; for those on a GPU, its stream waits."""
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.hold_changes()

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """Writes a JSON file beside the checkpoints."""
        self._folder.write(name, json.dumps(facts, indent=1).encode())

    def flush(self) -> None:
        """Waits until the last save is committed; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that is whole, or None where there is none."""
        self.flush()
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except (ValueError, KeyError, TypeError, FileNotFoundError, safetensors.SafetensorError) as error:
                self._damaged.add(step)
                self._tell("checkpoint_damaged", step=step, problem=str(error), remedy="the one before it is taken")
        return None

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that were committed, oldest first."""
        found = (_JSON_NAME.fullmatch(name) for name in self._folder.names("step-"))
        return sorted(int(match[1]) for match in found if match)

    def _write(self, step: int, image: _Image, copying: _Copying, facts: dict[str, Any]) -> None:
        copying.wait()
        sha256 = hashlib.sha256()
        with self._folder.writer(_tensors_name(step)) as file:
            for part in image.parts():
                sha256.update(part)
                file.write(part)
        vouch = {"step": step, "sha256": sha256.hexdigest(), "bytes": image.num_bytes, "facts": facts}
        self._folder.write(_json_name(step), json.dumps(vouch, sort_keys=True, indent=1).encode())
        self.committed_at = time.time()
        self._damaged.discard(step)
        self._sweep()

    def _read(self, step: int) -> Checkpoint:
        vouch = json.loads(self._folder.read(_json_name(step)))
        data = self._folder.read(_tensors_name(step))
        if hashlib.sha256(data).hexdigest() != vouch["sha256"]:
            raise ValueError(f"sha256 of {len(data)} bytes differs from the one of {vouch['bytes']} bytes written")
        return Checkpoint(step, safetensors.torch.load(data), vouch["facts"])

    def _sweep(self) -> None:
        """Deletes damaged and old checkpoints, JSON first, and tensors that nothing vouches for."""
        whole = [step for step in self.steps() if step not in self._damaged]
        for step in [*sorted(self._damaged), *whole[: -self._keep]]:
            with contextlib.suppress(FileNotFoundError):
                self._folder.delete(_json_name(step))
        self._damaged.clear()
        kept = {_tensors_name(step) for step in whole[-self._keep :]}
        for name in self._folder.names("step-"):
            if name.endswith(".safetensors") and name not in kept:
                self._folder.delete(name)


class _Image:
    """A safetensors file in memory: header, and one buffer in which every tensor has its place.

    The format: 8 bytes little-endian length, JSON with dtype, shape and place by name, then the tensors; those of wider
    types first, so that each is aligned (https://github.com/huggingface/safetensors, "Format").
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        entries, stop = {}, 0
        for name in names:
            tensor = tensors[name]
            start, stop = stop, stop + tensor.numel() * tensor.element_size()
            entries[name] = {
                "dtype": _DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, stop],
            }
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self.header = len(header).to_bytes(8, "little") + header
        is_pinned = any(tensor.is_cuda for tensor in tensors.values())
        self.buffer = torch.empty(stop, dtype=torch.uint8, pin_memory=is_pinned)
        self.places = {
            name: self.buffer[slice(*entries[name]["data_offsets"])].view(tensors[name].dtype).view(tensors[name].shape)
            for name in names
        }
        self.num_bytes = len(self.header) + stop

    def fits(self, tensors: dict[str, Tensor]) -> bool:
        """Returns whether the buffer was laid out for tensors like these."""
        return tensors.keys() == self.places.keys() and all(
            tensor.shape == self.places[name].shape and tensor.dtype == self.places[name].dtype
            for name, tensor in tensors.items()
        )

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Copies the tensors to their places; those on a GPU by its current stream, which is not waited for."""
        for name, tensor in whole(tensors):
            self.places[name].copy_(tensor, non_blocking=True)

    def parts(self) -> list[memoryview]:
        """Returns the file's bytes in order, in pieces that don't copy anything."""
        view = memoryview(self.buffer.numpy().data)
        num_parts = math.ceil(len(view) / _PART_BYTES)
        return [memoryview(self.header), *(view[i * _PART_BYTES : (i + 1) * _PART_BYTES] for i in range(num_parts))]


class _Copying:
    """A copy under way: by a thread, or, where some of the tensors are on a GPU, by a stream of its own.

    Sharded tensors are gathered from all ranks, one by one, in the caller's order of collectives: at once.
    """

    def __init__(self, image: _Image, tensors: dict[str, Tensor], copier: ThreadPoolExecutor) -> None:
        device = next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)
        self._thread: Future[None] | None = None
        self._event: torch.cuda.Event | None = None
        is_gathered = any(is_sharded(tensor) for tensor in tensors.values())
        if device is None:
            self._thread = None if is_gathered else copier.submit(image.take, tensors)
            if is_gathered:
                image.take(tensors)
            return
        stream = torch.cuda.current_stream(device) if is_gathered else torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            image.take(tensors)
            self._event = torch.cuda.Event()
            self._event.record(stream)

    def hold_changes(self) -> None:
        """Keeps what is done next with the tensors behind the copy."""
        if self._thread is not None:
            self._thread.result()
        if self._event is not None:
            torch.cuda.current_stream().wait_event(self._event)

    def wait(self) -> None:
        """Returns when the copy is done."""
        if self._thread is not None:
            self._thread.result()
        if self._event is not None:
            self._event.synchronize()


def _json_name(step: int) -> str:
    return f"step-{step:09d}.json"


def _tensors_name(step: int) -> str:
    return f"step-{step:09d}.safetensors"
