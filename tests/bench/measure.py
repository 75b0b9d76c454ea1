"""Ratios by the method of paired rounds: the same work beside a peer, in fresh processes, interleaved A B B A.

A figure is the median of the rounds' ratios, with the 95 % interval of a bootstrap over the rounds; above 1 ours is
the faster one. Who calls this has checked before that both sides give the same.
"""

import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("CETERIS_PEERS", ROOT / ".venv-peers")) / "bin"
ROUNDS = 6
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
CPU, WALL = "CPU seconds", "wall seconds"


class NotEqual(Exception):
    """The two sides give different results, so that no ratio means anything."""


class Skipped(Exception):
    """What the rows need is not installed here."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: As the table shows it.
        work: `module:function`; see `fresh`.
        arguments: What the function gets.
        python: The interpreter that runs it.
    """

    name: str
    work: str
    arguments: tuple[Any, ...] = ()
    python: str = sys.executable


class Cost(NamedTuple):
    """What one run cost, and what it returned."""

    cpu_s: float
    wall_s: float
    found: Any


def peers_python() -> str:
    """Returns the Python of the peers that don't resolve with our versions.

    Raises:
        Skipped: There is none.
    """
    if not (PEERS / "python").exists():
        raise Skipped("no .venv-peers, which `make bench` makes")
    return str(PEERS / "python")


def cost(contender: Contender) -> Cost:
    """Returns what one run costs, in a process of its own, with one thread per library."""
    command = [contender.python, "-m", "tests.bench.fresh", contender.work, json.dumps(contender.arguments)]
    environment = os.environ | ONE_THREAD | {"PATH": f"{PEERS}:{os.environ['PATH']}"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if ended.returncode:
        raise RuntimeError(f"{contender.name} failed:\n{ended.stderr}")
    return Cost(*json.loads(ended.stdout.splitlines()[-1]))


def rounds(contenders: Sequence[Contender], num_rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """Returns the costs of each contender, by its name, in rounds that alternate in their direction.

    Raises:
        NotEqual: They returned different things.
    """
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
    for number in range(num_rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            costs[contender.name].append(cost(contender))
            print(f"{contender.name}: {costs[contender.name][-1]}", file=sys.stderr)
    found = {name: runs[0].found for name, runs in costs.items()}
    if len({json.dumps(run.found) for runs in costs.values() for run in runs}) > 1:
        raise NotEqual(f"results differ: {found}")
    return costs


def compare(what: str, ours: Sequence[Cost], peer: Sequence[Cost], peer_name: str, unit: str = CPU) -> None:
    """Prints one row of the table."""
    our_s, peer_s = ([cost.cpu_s if unit == CPU else cost.wall_s for cost in runs] for runs in (ours, peer))
    ratios = [theirs / mine for theirs, mine in zip(peer_s, our_s, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(1000))
    interval = f"({medians[25]:.2f} to {medians[974]:.2f})"
    medians_s = f"{statistics.median(our_s):.3g} against {statistics.median(peer_s):.3g}"
    print_row(what, peer_name, f"{statistics.median(ratios):.2f}x", interval, f"{unit}, {medians_s}")


def compare_pair(what: str, ours: Contender, peer: Contender, unit: str = CPU, num_rounds: int = ROUNDS) -> None:
    """Measures two contenders and prints their row."""
    costs = rounds([ours, peer], num_rounds)
    compare(what, costs[ours.name], costs[peer.name], peer.name, unit)


def print_row(what: str, peer: str, ratio: str, interval: str, unit: str) -> None:
    """Prints a line of the table."""
    print(f"{what:40}{peer:34}{ratio:>8}  {interval:18}{unit}", flush=True)
