"""Whatever fails and whoever is killed: one gang at a time, the right outcome, nothing left."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.chaos import LONG_S, Result, Start, Trial, draw, run_trial, start_ours, start_plain

NUM_TRIALS = 50
NUM_QUICK = 10  # of them, outside of CI


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=() if seed < NUM_QUICK else pytest.mark.slow) for seed in range(NUM_TRIALS)],
)
def test_chaos_ends_with_one_gang_the_right_outcome_and_nothing_left(seed: int, tmp_path: Path) -> None:
    trial = draw(seed)
    result = run_trial(trial, tmp_path / "out", start_ours)
    assert not result.wrongs(trial), result.words


def num_unharmed(folder: Path, start: Start, trials: list[Trial], fault_rate: float) -> int:
    def harms(number: int, trial: Trial) -> list[str]:
        return run_trial(trial, folder / str(number), start, fault_rate).harms(trial)

    return sum(not harms(number, trial) for number, trial in enumerate(trials))


@pytest.mark.slow  # a launcher that knows no name waits for what it doesn't find
def test_a_plain_launcher_comes_through_where_nothing_goes_wrong(tmp_path: Path) -> None:
    """The control: what the next test counts against it is the chaos and not the scoring."""
    trials = [draw(seed) for seed in range(NUM_TRIALS)]
    calm = [dataclasses.replace(t, kills={}) for t in trials if t.codes == {0} and len(t.plans) == 1]
    calm = [trial for trial in calm if not trial.is_abandoned]
    assert len(calm) >= 4
    assert num_unharmed(tmp_path, start_plain, calm, 0.0) == len(calm)


@pytest.mark.slow  # all trials
def test_the_same_chaos_harms_a_plain_launcher(tmp_path: Path) -> None:
    trials = [draw(seed) for seed in range(NUM_TRIALS)]
    num = num_unharmed(tmp_path, start_plain, trials, 0.12)
    print(f"a plain launcher came through {num} of {NUM_TRIALS} trials unharmed")
    assert num < NUM_TRIALS / 2


HARMS: list[tuple[str, Callable[[Result], Result]]] = [
    ("two gangs at once", lambda r: dataclasses.replace(r, most_at_once=2)),
    ("still running", lambda r: dataclasses.replace(r, num_running=1)),
    ("trained again when done", lambda r: dataclasses.replace(r, num_after_done=1)),
    ("wrong outcome", lambda r: dataclasses.replace(r, code=1)),
    ("success without a result", lambda r: dataclasses.replace(r, is_done=False)),
]


@pytest.mark.parametrize(("harm", "spoil"), HARMS)
def test_the_harness_sees_each_harm(harm: str, spoil: Callable[[Result], Result], tmp_path: Path) -> None:
    trial = next(t for t in map(draw, range(NUM_TRIALS)) if t.codes == {0} and not t.is_abandoned)
    result = run_trial(trial, tmp_path / "out", start_ours)
    assert result.harms(trial) == []
    assert spoil(result).harms(trial) == [harm]


def test_trials_are_as_wild_as_they_claim(tmp_path: Path) -> None:
    trials = [draw(seed) for seed in range(NUM_TRIALS)]
    assert sum(bool(trial.cancel_at) for trial in trials) >= 5
    assert sum(trial.is_abandoned for trial in trials) >= 5
    assert all(
        plan.run_s == LONG_S for trial in trials if trial.cancel_at or trial.is_abandoned for plan in trial.plans
    )
    results = [run_trial(trial, tmp_path / str(n), start_ours) for n, trial in enumerate(trials[:10])]
    assert sum(result.num_kills for result in results) > 15
    assert sum(result.num_faults for result in results) > 150
