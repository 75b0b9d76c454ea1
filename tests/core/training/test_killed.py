"""A training that is killed, or asked to stop, at any moment ends as if it had not been, to the bit."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.core.data.batch import Batch
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Interrupted, train
from components.runtime.process import StopSignal
from components.runtime.storage import LocalFolder
from tests.core.training.small_runs import ARMS, alone, batches, config, killed, result, state_sha256, write_result

NUM_STEPS = 40
NUM_KILLS = 10


def _train(arm: str, folder: Path, step_s: float, checkpoint_every_steps: int = 2) -> None:
    torch.set_num_threads(1)

    def paced(first_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first_step), first_step):
            (folder / "at").write_text(str(step))
            time.sleep(step_s)
            yield batch

    objective = ARMS[arm]()
    stop, done = StopSignal(), [0]
    try:
        curve = train(
            objective,
            paced,
            config(num_steps=NUM_STEPS, checkpoint_every_steps=checkpoint_every_steps),
            checkpoints=Checkpoints(LocalFolder(folder)),
            report=lambda step, values: done.append(step),
            should_stop=lambda: stop.is_set,
            tell=lambda event, **facts: None,
        )
    except Interrupted:
        write_result(folder, {"stopped_after": done[-1], "saved": Checkpoints(LocalFolder(folder)).steps()})
        sys.exit(3)
    write_result(folder, {"curve": curve, "weights": state_sha256(objective)})


@pytest.mark.slow  # 24 processes one after the other
@pytest.mark.parametrize("arm", ["clip", "dino"])
def test_killed_at_ten_random_steps_the_losses_and_weights_are_those_of_an_unbroken_run(
    tmp_path: Path, arm: str
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    alone(_train, arm, straight, 0.0).join(60)
    pick = random.Random(arm)
    kills = sorted(pick.sample(range(1, NUM_STEPS), NUM_KILLS))
    for step in kills:
        process = alone(_train, arm, broken, 0.01)
        deadline = time.monotonic() + 60
        while _at(broken) < step and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(pick.uniform(0, 0.02))  # anywhere in the step, or in the writing of a checkpoint
        assert process.is_alive(), "killed before its end, or it proves nothing"
        killed(process)
        assert process.exitcode == -9
    alone(_train, arm, broken, 0.0).join(60)
    assert result(broken) == result(straight)
    assert len(result(straight)["curve"]) == NUM_STEPS


def test_a_sigterm_loses_no_step(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    unbroken = alone(_train, "dino", straight, 0.0, 1_000)
    for step in (3, 23):
        process = alone(_train, "dino", broken, 0.01, 1_000)
        deadline = time.monotonic() + 60
        while _at(broken) < step and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(process.pid or 0, signal.SIGTERM)
        asked = time.monotonic()
        process.join(10)
        assert process.exitcode == 3 and time.monotonic() - asked < 5
        stopped = result(broken)
        assert stopped["saved"][-1] == stopped["stopped_after"] >= step
    alone(_train, "dino", broken, 0.0, 1_000).join(60)
    unbroken.join(60)
    assert result(broken) == result(straight)


def _at(folder: Path) -> int:
    try:
        return int((folder / "at").read_text())
    except (FileNotFoundError, ValueError):
        return -1
