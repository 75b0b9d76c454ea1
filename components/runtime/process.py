"""What a stage's process needs set before it works: memory that stays, and signals that ask instead of kill."""

import ctypes
import os
import signal
from types import FrameType

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # glibc's malloc.h
KEPT_BYTES = 1 << 30
GROW_BYTES = 64 << 20


def rank() -> int:
    """Returns this process's place among those that work on the stage together, as torchrun sets it; alone: 0."""
    return int(os.environ.get("RANK", "0"))


def keep_freed_memory() -> None:
    """Makes glibc's malloc keep what a training step frees, instead of faulting it in again at the next step.

    All threads share one arena: an arena of a thread's own can't hold a batch of pictures, which would be mapped anew
    each time.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # not glibc: its allocator has no such thresholds
    libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    libc.mallopt(M_TOP_PAD, GROW_BYTES)
    libc.mallopt(M_ARENA_MAX, 1)


class StopSignal:
    """Becomes true at the first SIGTERM or SIGINT; a second one interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


def leave_signals_to_parent() -> None:
    """Gives a worker process the default signals: the parent decides when work ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
