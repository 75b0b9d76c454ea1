"""What a finished stage costs when it is run again."""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from tests.bench.measure import CPU, ROUNDS, WALL, Contender, cost, print_row


def rows() -> None:
    """Prints two rows, which have no peer."""
    with tempfile.TemporaryDirectory() as folder:
        contender = Contender("ours", f"{__name__}:again", (folder,))
        costs = [cost(contender) for _ in range(ROUNDS + 1)][1:]  # the first run does the work
    for unit, seconds in ((CPU, [run.cpu_s for run in costs]), (WALL, [run.wall_s for run in costs])):
        print_row("a stage with nothing to do", "", "-", "", f"{unit}, {statistics.median(seconds):.2f}")


def again(folder: str) -> Callable[[], None]:
    """Prepares a run of a small build_shards into the folder."""
    command = [sys.executable, "-m", "components.build_shards", f"--out_uri={folder}", "--purpose=pretrain"]
    command += ["--num_samples=64", "--image_size_px=32"]

    def work() -> None:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    return work
