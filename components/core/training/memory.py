"""Memory: how much a training has taken at most, and what to say where it doesn't suffice."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

import torch

GIB = 1 << 30


class OutOfMemory(ValueError):
    """A step does not fit; the same numbers would fail again, so that it's the user's to change them."""


def peak_gib(device: torch.device) -> float:
    """Returns the most memory that this process has taken: of a GPU what PyTorch allocated, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


@contextlib.contextmanager
def said_out_of_memory(num_rows: int, num_micro_batches: int, device: torch.device) -> Iterator[None]:
    """Turns each of PyTorch's and Python's out-of-memory errors into a sentence with the numbers that decide.

    Args:
        num_rows: samples of this rank's batch.
        num_micro_batches: parts in which they are computed.
        device: where.

    Raises:
        OutOfMemory: in place of such an error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not is_known:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutOfMemory(
            f"A step over {num_rows} samples per rank in num_micro_batches={num_micro_batches} needs more memory than "
            f"{device} has ({peak_gib(device):.2f} GiB were taken; {first}): give more num_micro_batches, which "
            "changes no number of the training, or checkpoint_activations, or more ranks, or a smaller batch_size."
        ) from error
