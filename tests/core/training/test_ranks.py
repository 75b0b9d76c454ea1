"""Several processes as one training: the same losses, the same batches, the same end, and no one waits for ever."""

import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.data.batch import Batch
from components.core.objectives.objective import Objective
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Diverged, Interrupted, train
from components.runtime.storage import LocalFolder
from tests.core.training import small_runs
from tests.core.training.small_runs import (
    ARMS,
    alone,
    batches,
    clip,
    config,
    exit_codes,
    in_ranks,
    result,
    run,
    state_sha256,
    train_arm,
    write_result,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_two_processes_equal_one(tmp_path: Path, arm: str, num_micro_batches: int) -> None:
    whole = ARMS[arm]()
    expected = run(whole, tmp_path / "one")
    folder = tmp_path / "two"
    assert exit_codes(in_ranks(2, train_arm, arm, folder, {"num_micro_batches": num_micro_batches})) == [0, 0]
    assert result(folder, 0) == result(folder, 1), "curve and weights are the same on every rank, to the bit"
    for (_, one), (_, two) in zip(expected, result(folder)["curve"], strict=True):
        # float32 sums in another order; see test_loop
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=5e-3)
    latest = Checkpoints(LocalFolder(folder)).latest()
    assert latest is not None
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(latest.tensors[f"model/{name}"], tensor, rtol=1e-3, atol=2e-4, msg=name)


def _until(folder: Path, stop_at: int) -> None:
    ids: list[tuple[int, list[int]]] = []

    def watched(first_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first_step), first_step):
            ids.append((step, batch.ids_B.tolist()))
            yield batch

    objective = clip()
    curve: list[Any] = []
    try:
        curve = run(objective, folder, stop_at=stop_at, batches=watched)
    except Interrupted:
        assert stop_at
    write_result(folder, {"ids": ids, "curve": curve})


def test_another_number_of_ranks_goes_on_with_the_same_global_batches(tmp_path: Path) -> None:
    expected = run(clip(), tmp_path / "one")
    folder = tmp_path / "changing"
    seen: dict[int, list[int]] = {}
    for num, stop_at in ((2, 3), (1, 5), (4, 0)):
        assert exit_codes(in_ranks(num, _until, folder, stop_at)) == [0] * num
        shares = [dict(result(folder, rank)["ids"]) for rank in range(num)]
        seen |= {step: [sample for share in shares for sample in share[step]] for step in shares[0]}
    assert seen == {step: list(range(8 * step, 8 * step + 8)) for step in range(8)}
    curve = result(folder)["curve"]
    assert [step for step, _ in curve] == list(range(1, 9))
    for (_, one), (_, changing) in zip(expected, curve, strict=True):
        assert changing["loss"] == pytest.approx(one["loss"], rel=1e-4)


def _told_alone(folder: Path) -> None:
    """The second rank alone is asked to stop, after its third step."""
    num_asked = 0

    def should_stop() -> bool:
        nonlocal num_asked
        num_asked += 1
        return distributed.world().rank == 1 and num_asked == 3

    try:
        train(
            clip(),
            batches,
            config(),
            checkpoints=Checkpoints(LocalFolder(folder)),
            report=lambda step, values: None,
            should_stop=should_stop,
        )
    except Interrupted as error:
        write_result(folder, {"said": str(error), "saved": Checkpoints(LocalFolder(folder)).steps()})


def test_all_stop_after_the_same_step_where_one_is_asked_to(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _told_alone, tmp_path)) == [0, 0]
    for rank in (0, 1):
        assert result(tmp_path, rank) == {"said": "stopped after step 3 of 8, which is saved", "saved": [2, 3]}


class _Local(Objective):
    """A loss that is not finite on the second rank alone, at steps 2 to 4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self.weight.square().sum()
        if distributed.world().rank == 1 and step in (2, 3, 4):
            loss = loss + math.inf  # the gradient stays finite
        return loss, {"loss": loss.detach()}


def _breaks_on_one(folder: Path, max_nonfinite_steps: int) -> None:
    objective, said = _Local(), ""
    try:
        run(objective, folder, max_nonfinite_steps=max_nonfinite_steps)
    except Diverged as error:
        said = str(error)
    write_result(folder, {"said": said, "weights": state_sha256(objective)})


def test_a_step_that_is_bad_on_one_rank_is_skipped_on_all(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _breaks_on_one, tmp_path, 4)) == [0, 0]
    assert result(tmp_path, 0) == result(tmp_path, 1) and not result(tmp_path)["said"]
    latest = Checkpoints(LocalFolder(tmp_path)).latest()
    assert latest is not None and latest.tensors["optimizer/weight/step"] == 5


def test_divergence_ends_all_ranks_with_the_ids_of_each(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _breaks_on_one, tmp_path, 3)) == [0, 0]
    assert result(tmp_path, 0) == result(tmp_path, 1) and "3 steps in a row" in result(tmp_path)["said"]
    dumped = LocalFolder(tmp_path).read_json("diverged-000000005.json")
    assert dumped["ids_by_step_and_rank"]["5"] == [[32, 33, 34, 35], [36, 37, 38, 39]]


def _slow_on_one(folder: Path) -> None:
    told: list[Any] = []
    seen: list[tuple[int, dict[str, float]]] = []

    def slow(first_step: int) -> Iterator[Batch]:
        for batch in batches(first_step):
            time.sleep(0.3 * distributed.world().rank)
            yield batch

    train(
        clip(),
        slow,
        replace(config(), num_steps=4, log_every_steps=4),
        checkpoints=Checkpoints(LocalFolder(folder)),
        report=lambda step, values: seen.append((step, values)),
        should_stop=lambda: False,
        tell=lambda event, **facts: told.append([event, facts["rank"]]),
    )
    write_result(folder, {"told": told, "values": seen[-1][1]})


def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _slow_on_one, tmp_path)) == [0, 0]
    first, second = result(tmp_path, 0), result(tmp_path, 1)
    assert first["told"] == [["straggler", 1]] and second["told"] == []
    for found in (first["values"], second["values"]):
        assert found["busy_s/rank1"] > 0.3 > found["busy_s/rank0"]
        assert found["images_per_s"] * found["step_s"] == pytest.approx(8)


def _hanging(folder: Path) -> None:
    """Steps until one rank is stopped from outside; stderr goes to a file per rank."""
    rank = distributed.world().rank
    os.dup2(os.open(folder / f"stderr-{rank}", os.O_CREAT | os.O_WRONLY), 2)

    def counted(first_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(batches(first_step), first_step):
            (folder / f"at-{rank}").write_text(str(step))
            yield batch

    run(
        clip(),
        folder / "run",
        batches=counted,
        num_steps=1_000_000,
        log_every_steps=10,
        checkpoint_every_steps=1_000_000,
        hang_slack_s=1.0,
        hang_patience_s=60.0,
    )


def test_a_rank_that_hangs_ends_the_others_with_their_stacks(tmp_path: Path) -> None:
    processes = in_ranks(3, _hanging, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "at-2").exists() or int((tmp_path / "at-2").read_text() or 0) < 30:
        assert time.monotonic() < deadline, "the ranks don't train"
        time.sleep(0.05)
    os.kill(processes[1].pid or 0, signal.SIGSTOP)
    start = time.monotonic()
    for process in (processes[0], processes[2]):
        process.join(30)
    seconds = time.monotonic() - start
    os.kill(processes[1].pid or 0, signal.SIGCONT)
    codes = exit_codes(processes)
    assert codes[0] == codes[2] == 1 and codes[1] not in (0, None)
    assert seconds < 20, "a second, and twice the slowest of the last 20 steps"
    stacks = [(tmp_path / f"stderr-{rank}").read_text() for rank in (0, 1, 2)]
    assert any("Timeout" in stack and "in train" in stack for stack in stacks)
    assert all("in train" in stack for stack in stacks), "each rank says where it was"


def _meets(folder: Path, variables: dict[str, str]) -> None:
    os.environ |= variables
    try:
        distributed.start("gloo", timeout_s=1.0)
    except (ValueError, distributed.GroupNotFormed) as error:
        write_result(folder, {"kind": type(error).__name__, "said": str(error)})


RANK_0_OF_3 = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("variables", "kind", "said"),
    [
        ({}, "GroupNotFormed", "Rank 0 of 3 waited 1 s at 127.0.0.1:PORT and has not seen ranks 1, 2"),
        ({"RANK": "1"}, "GroupNotFormed", "Rank 1 of 3 can't meet the others at 127.0.0.1:PORT within 1 s"),
        ({"RANK": "3"}, "ValueError", "RANK=3 and LOCAL_RANK=0 of WORLD_SIZE=3"),
        ({"RANK": "one"}, "ValueError", "whole numbers"),
        ({"MASTER_ADDR": "", "LOCAL_RANK": ""}, "ValueError", "LOCAL_RANK, MASTER_ADDR are not set"),
    ],
)
def test_a_group_that_cannot_form_says_why_in_bounded_time(
    tmp_path: Path, variables: dict[str, str], kind: str, said: str
) -> None:
    port = str(small_runs.free_port())
    assert exit_codes([alone(_meets, tmp_path, RANK_0_OF_3 | {"MASTER_PORT": port} | variables)], 30) == [0]
    assert result(tmp_path)["kind"] == kind
    assert said.replace("PORT", port) in result(tmp_path)["said"]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert exit_codes([alone(_meets, tmp_path, RANK_0_OF_3 | {"MASTER_PORT": port})], 30) == [0]
    assert f"127.0.0.1:{port}" in result(tmp_path)["said"] and "MASTER_PORT is free" in result(tmp_path)["said"]


def test_without_a_group_there_is_one_rank() -> None:
    assert distributed.world() == distributed.World(rank=0, size=1, local_rank=0)
    assert distributed.any_rank(True) and not distributed.any_rank(False)
    assert distributed.of_all_ranks(2.0) == [2.0]
