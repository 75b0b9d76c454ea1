"""Speed beside peers, in one run: `python -m tests.bench`, or the subjects that are named: `... sharding s3`."""

import contextlib
import importlib
import os
import platform
import sys
from pathlib import Path

import torch

from tests.bench.measure import NotEqual, Skipped, print_row

SUBJECTS = (
    "tar",
    "knn",
    "probe_sweep",
    "vlm_evaluation",
    "pair_mining",
    "idle_stage",
    "decode",
    "sharding",
    "s3",
    "resume",
    "contrastive_loss",
    "clip_step",
    "clip_end_to_end",
    "dino_step",
    "checkpoint_stall",
)


def main(names: list[str]) -> int:
    """Prints the table; returns 1 where two sides gave different results, 2 for an unknown subject."""
    unknown = set(names) - set(SUBJECTS)
    if unknown:
        print(f"{', '.join(sorted(unknown))}: no such subject; there are {', '.join(SUBJECTS)}.", file=sys.stderr)
        return 2
    print(f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
    print("a ratio above 1: ours needs less; in brackets its 95 % interval\n")
    print_row("what", "peer", "ratio", "interval", "of what, ours against the peer's")
    is_equal = True
    for name in names or SUBJECTS:
        try:
            importlib.import_module(f"tests.bench.{name}").rows()
        except Skipped as reason:
            print_row(name, "", "-", "", f"skipped: {reason}")
        except NotEqual as difference:
            is_equal = False
            print_row(name, "", "-", "", f"no ratio: {difference}")
    return 0 if is_equal else 1


def _processor() -> str:
    """Returns the processor's model, where Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
