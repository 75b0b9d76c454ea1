"""Checkpoints that are whole or invisible: safetensors, then the JSON that vouches for them.

The JSON is written last and holds the sha256 of the tensors, so that a crash in between leaves nothing that
`latest` would take. A checkpoint whose tensors don't match their hash is passed over for the one before. No
pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors
import safetensors.torch
from torch import Tensor

_LOG = logging.getLogger(__name__)


class CheckpointFolder(Protocol):
    """What is needed of a folder; components/runtime/storage.py has it for disks and S3."""

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all."""
        ...

    def names(self, prefix: str = "") -> list[str]:
        """Returns the sorted names that begin with a prefix."""
        ...

    def delete(self, name: str) -> None:
        """Deletes a file."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: the number of steps done, the tensors, and whatever else fits in JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder, written in the background.

    Args:
        folder: where; anything with read, write, names and delete.
        keep: how many whole checkpoints stay; 2 or more survive the damage of the newest.
    """

    def __init__(self, folder: CheckpointFolder, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: keep 1 checkpoint or more, 2 to survive the damage of the newest.")
        self._folder, self._keep = folder, keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Copies the tensors and returns; the copy is written in the background, after the one before it.

        Raises:
            OSError: the save before this one failed.
        """
        self.flush()
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        self._pending = self._writer.submit(self._write, step, copies, json.loads(json.dumps(facts)))

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
            except (ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
                _LOG.warning("checkpoint %d is damaged (%s): falling back to the one before", step, error)
        return None

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that were committed, oldest first."""
        return sorted(int(name[5:-5]) for name in self._folder.names("step-") if name.endswith(".json"))

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        data = safetensors.torch.save(tensors)
        self._folder.write(f"step-{step:09d}.safetensors", data)
        vouch = {"step": step, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "facts": facts}
        self._folder.write(f"step-{step:09d}.json", json.dumps(vouch, sort_keys=True, indent=1).encode())
        self._sweep()

    def _read(self, step: int) -> Checkpoint:
        vouch = json.loads(self._folder.read(f"step-{step:09d}.json"))
        data = self._folder.read(f"step-{step:09d}.safetensors")
        if hashlib.sha256(data).hexdigest() != vouch["sha256"]:
            raise ValueError(f"sha256 of {len(data)} bytes differs from the one of {vouch['bytes']} bytes written")
        return Checkpoint(step, safetensors.torch.load(data), vouch["facts"])

    def _sweep(self) -> None:
        """Deletes old checkpoints, JSON first, and tensors that nothing vouches for."""
        for step in self.steps()[: -self._keep]:
            self._folder.delete(f"step-{step:09d}.json")
        kept = {f"step-{step:09d}.safetensors" for step in self.steps()}
        for name in self._folder.names("step-"):
            if name.endswith(".safetensors") and name not in kept:
                self._folder.delete(name)
