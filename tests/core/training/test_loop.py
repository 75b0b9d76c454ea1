"""The loop: resuming is bit-identical, micro-batches change nothing, divergence is not saved, changes are refused."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.data.batch import Batch
from components.core.objectives.objective import Objective
from components.core.training.checkpoint import Checkpoints, Settings
from components.core.training.loop import Diverged, Interrupted, train
from components.core.training.memory import OutOfMemory
from components.core.training.optimizer import learning_rate_at, schedule_sha256
from components.runtime.storage import LocalFolder
from tests.core.training.small_runs import ARMS, NUM_STEPS, batches, clip, config, dino, run, state_sha256


@pytest.mark.parametrize("arm", ARMS)
def test_resuming_after_an_interruption_is_bit_identical(tmp_path: Path, arm: str) -> None:
    straight = ARMS[arm]()
    expected = run(straight, tmp_path / "straight")
    with pytest.raises(Interrupted, match="after step 5 of 8"):
        run(ARMS[arm](), tmp_path / "broken", stop_at=5)
    resumed = ARMS[arm]()
    seen: list[tuple[int, dict[str, float]]] = []
    assert run(resumed, tmp_path / "broken", seen=seen) == expected
    assert [step for step, _ in seen] == [6, 7, 8]
    assert state_sha256(resumed) == state_sha256(straight)


def test_counts_go_on_where_a_checkpoint_falls_between_two_reports(tmp_path: Path) -> None:
    expected = run(clip(), tmp_path / "straight", log_every_steps=4, checkpoint_every_steps=3)
    folder = tmp_path / "broken"
    run(clip(), folder, log_every_steps=4, checkpoint_every_steps=3)
    for name in ("json", "safetensors"):
        (folder / f"step-000000008.{name}").unlink()
    assert Checkpoints(LocalFolder(folder)).steps() == [6]
    assert run(clip(), folder, log_every_steps=4, checkpoint_every_steps=3) == expected


def test_a_run_that_is_done_does_nothing(tmp_path: Path) -> None:
    expected = run(dino(), tmp_path)
    seen: list[tuple[int, dict[str, float]]] = []
    assert run(dino(), tmp_path, seen=seen) == expected and not seen


@pytest.mark.parametrize("arm", ARMS)
def test_micro_batches_equal_one_batch(tmp_path: Path, arm: str) -> None:
    whole, parts = ARMS[arm](), ARMS[arm]()
    expected = run(whole, tmp_path / "whole")
    curve = run(parts, tmp_path / "parts", num_micro_batches=4)
    for (_, one), (_, other) in zip(expected, curve, strict=True):
        # float32 sums in another order; Adam's first steps are signs, which multiplies what noise there is
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=5e-3)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_micro_batches_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_micro_batches=3 does not divide the 8 samples"):
        run(clip(), tmp_path, num_micro_batches=3)


@pytest.mark.parametrize("arm", ["clip", "dino"])
def test_recomputing_activations_is_bit_identical(tmp_path: Path, arm: str) -> None:
    plain, tuned = ARMS[arm](), ARMS[arm]()
    assert run(plain, tmp_path / "plain") == run(tuned, tmp_path / "tuned", checkpoint_activations=True)
    assert state_sha256(plain) == state_sha256(tuned)


@pytest.mark.slow  # the compiler takes most of a minute
def test_compiled_blocks_give_the_same_losses(tmp_path: Path) -> None:
    expected = run(clip(), tmp_path / "plain")
    curve = run(clip(), tmp_path / "tuned", is_compiled=True, checkpoint_activations=True, num_micro_batches=2)
    for (_, one), (_, other) in zip(expected, curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_bfloat16_gives_nearly_the_same_losses(tmp_path: Path) -> None:
    expected = run(clip(), tmp_path / "plain", learning_rate=1e-3)
    curve = run(clip(), tmp_path / "half", learning_rate=1e-3, is_bfloat16=True, num_micro_batches=2)
    for (_, one), (_, other) in zip(expected, curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.03)  # 8 bits of mantissa
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=0.2)


def test_blocks_that_are_not_there_cannot_be_tuned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is_compiled=True.*no transformer blocks"):
        run(_Breaking(set()), tmp_path, is_compiled=True)


def test_a_report_tells_speed_and_memory_and_the_curve_does_not(tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    curve = run(clip(), tmp_path, seen=seen)
    extra = seen[-1][1].keys() - curve[-1][1].keys()
    assert extra == {"step_s", "data_wait_s", "images_per_s", "memory_gib", "busy_s/rank0"}
    values = seen[-1][1]
    assert values["images_per_s"] * values["step_s"] == pytest.approx(8)
    assert 0 < values["data_wait_s"] < values["step_s"] * config().log_every_steps
    assert 0 < values["busy_s/rank0"] < values["step_s"] and values["memory_gib"] > 0.01
    assert {"gradient_norm", "gradient_norm_max", "gradient_explosions", "learning_rate"} <= curve[-1][1].keys()


def _with_settings(folder: Path, changeable: set[str], *, num_steps: int = NUM_STEPS, **values: Any) -> list[str]:
    """Trains to the end and returns what was told."""
    told: list[str] = []
    train(
        clip(),
        batches,
        config(num_steps=num_steps),
        checkpoints=Checkpoints(LocalFolder(folder)),
        report=lambda step, values: None,
        should_stop=lambda: False,
        tell=lambda event, **facts: told.append(f"{event} {facts}"),
        settings=Settings(values, frozenset(changeable)),
    )
    return told


def test_another_length_of_the_run_is_refused(tmp_path: Path) -> None:
    _with_settings(tmp_path, set())
    with pytest.raises(ValueError, match="num_steps=9 differs from the 8"):
        _with_settings(tmp_path, set(), num_steps=9)


def test_a_changed_setting_is_refused_with_those_that_may_change(tmp_path: Path) -> None:
    assert _with_settings(tmp_path, set(), width=16, crops=(1, 2), threads=2) == []
    with pytest.raises(ValueError, match=r"width was 16 and is 32\); only patience, threads may change"):
        _with_settings(tmp_path, {"threads", "patience"}, width=32, crops=(1, 2), threads=4)


def test_a_setting_that_may_change_does_and_it_is_recorded(tmp_path: Path) -> None:
    _with_settings(tmp_path, set(), width=16, threads=2)
    told = _with_settings(tmp_path, {"threads"}, width=16, threads=4)
    assert told == [
        "settings_changed {'step': 8, 'changes': {'threads': [2, 4]}}",
        f"resumed {{'step': 8, 'of': {NUM_STEPS}}}",
    ]


class _Breaking(Objective):
    """A loss that is not finite at the steps given."""

    def __init__(self, broken_steps: set[int], value: float = math.nan) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.broken_steps, self.value = broken_steps, value
        self.num_good = 0.0

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self.weight.square().sum() * (self.value if step in self.broken_steps else 1.0)
        return loss, {"loss": loss.detach()}

    def after_update(self, step: int, is_good: torch.Tensor) -> None:
        self.num_good += float(is_good)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nonfinite_step_is_skipped_and_counted(tmp_path: Path, value: float) -> None:
    objective = _Breaking({2, 3}, value)
    seen: list[tuple[int, dict[str, float]]] = []
    curve = run(objective, tmp_path, checkpoint_every_steps=1, seen=seen)
    assert [step for step, _ in curve] == [1, 2, 5, 6, 7, 8]
    assert [values["skipped_in_a_row"] for _, values in seen] == [0, 0, 1, 2, 0, 0, 0, 0]
    assert curve[-1][1]["skipped_steps"] == 2 and objective.num_good == 6
    assert all(math.isfinite(number) for _, values in seen for number in values.values())
    assert torch.isfinite(objective.weight).all()


def test_a_skipped_step_leaves_weights_and_optimiser_as_they_were(tmp_path: Path) -> None:
    run(_Breaking({2, 3}), tmp_path, checkpoint_every_steps=1, stop_at=0, num_steps=4, max_nonfinite_steps=9)
    before, after = (_saved(tmp_path, step) for step in (3, 4))
    assert before["optimizer/weight/step"] == after["optimizer/weight/step"] == 2
    for name in ("model/weight", "optimizer/weight/exp_avg", "optimizer/weight/exp_avg_sq"):
        assert torch.equal(before[name], after[name])


def _saved(folder: Path, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / f"step-{step:09d}.safetensors")


@pytest.mark.parametrize("log_every_steps", [1, 4, 8])
def test_too_many_nonfinite_steps_in_a_row_end_the_run(tmp_path: Path, log_every_steps: int) -> None:
    with pytest.raises(
        Diverged, match=r"3 steps in a row, the last of them 7; .*checkpoint is at step 4.*48, 49"
    ) as found:
        run(_Breaking({4, 5, 6}), tmp_path, checkpoint_every_steps=4, log_every_steps=log_every_steps)
    checkpoint = Checkpoints(LocalFolder(tmp_path)).latest()
    assert checkpoint is not None and checkpoint.step == 4
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())
    dumped = json.loads((tmp_path / "diverged-000000007.json").read_text())
    assert "diverged-000000007.json" in str(found.value)
    assert dumped["ids_by_step_and_rank"]["5"] == [list(range(32, 40))]
    assert sorted(dumped["ids_by_step_and_rank"]) == ["5", "6", "7"]


def test_a_run_of_which_no_step_was_good_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="2 steps in a row"):
        run(_Breaking({0, 1}), tmp_path, num_steps=2, max_nonfinite_steps=9)


class _Steep(Objective):
    """A gradient that is 100 times as long at one step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self.weight.sum() * (100.0 if step == 4 else 1.0)
        return loss, {"loss": loss.detach()}


def test_an_exploding_gradient_is_clipped_and_counted(tmp_path: Path) -> None:
    curve = run(_Steep(), tmp_path, log_every_steps=4)
    assert [values["gradient_explosions"] for _, values in curve] == [0, 1]
    assert [values["gradient_norm_max"] for _, values in curve] == [2, 200]
    assert curve[1][1]["gradient_norm"] == 2


class _Odd(Objective):
    """A metric that is not finite at one step, whose gradient is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = self.weight.sum()
        return loss, {"loss": loss.detach(), "spread": torch.tensor(math.nan if step == 2 else 1.0)}


def test_a_metric_that_is_not_finite_is_told_and_kept_out_of_the_curve(tmp_path: Path) -> None:
    told: list[Any] = []
    curve = train(
        _Odd(),
        batches,
        config(num_steps=4),
        checkpoints=Checkpoints(LocalFolder(tmp_path)),
        report=lambda step, values: None,
        should_stop=lambda: False,
        tell=lambda event, **facts: told.append((event, facts)),
    )
    assert told == [("metric_not_finite", {"step": 3, "names": ["spread"]})]
    assert [step for step, _ in curve] == [1, 2, 4] and curve[-1][1]["skipped_steps"] == 0


class _Greedy(Objective):
    """A step that asks for more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def loss(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.weight.sum() * torch.empty(1 << 50).sum(), {}


def test_a_step_that_does_not_fit_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"8 samples per rank in num_micro_batches=2.*more num_micro_batches"):
        run(_Greedy(), tmp_path, num_micro_batches=2)


def test_batches_that_end_are_no_success(tmp_path: Path) -> None:
    def three(first_step: int) -> Iterator[Batch]:
        return (batch for batch, _ in zip(batches(first_step), range(3), strict=False))

    with pytest.raises(RuntimeError, match="batches ended before num_steps=8"):
        run(clip(), tmp_path, batches=three)


def test_a_step_of_adamw_is_the_textbooks(tmp_path: Path) -> None:
    """Loshchilov and Hutter, algorithm 2, at the first step: m / (sqrt(v) + epsilon) is the gradient's sign."""
    objective = _Steep()
    numbers = replace(config(num_steps=1, warmup_steps=0, clip_norm=1e9), learning_rate=0.1)
    train(
        objective,
        batches,
        numbers,
        checkpoints=Checkpoints(LocalFolder(tmp_path)),
        report=lambda step, values: None,
        should_stop=lambda: False,
    )
    torch.testing.assert_close(objective.weight.detach(), torch.full((4,), 1 - 0.1 / (1 + 1e-6)))


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [learning_rate_at(step, peak=1.0, warmup_steps=4, num_steps=20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[12] == pytest.approx(0.5) and rates[20] == pytest.approx(0.0)
    assert schedule_sha256(peak=1.0, warmup_steps=4, num_steps=20) != schedule_sha256(
        peak=1.0, warmup_steps=5, num_steps=20
    )
