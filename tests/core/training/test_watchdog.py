"""Who is slow, and how long a step may take."""

import math
import time

import pytest
import torch

from components.core.training.watchdog import BusyClock, Watchdog, stragglers


@pytest.mark.parametrize(
    ("busy_s", "slow"),
    [([1.0], []), ([1.0, 1.9], []), ([1.0, 3.0], [1]), ([1.0, 1.0, 3.0, 1.2], [2]), ([3.0, 3.0, 3.0, 3.1], [])],
)
def test_a_rank_over_twice_the_median_is_slow(busy_s: list[float], slow: list[int]) -> None:
    assert stragglers(busy_s) == slow


def test_a_step_may_take_twice_the_slowest_of_the_last_and_what_is_no_step_does_not_count() -> None:
    with Watchdog(slack_s=60, patience_s=300) as watchdog:
        assert watchdog.limit_s == 660
        time.sleep(0.2)
        watchdog.step_done()
        with watchdog.patient():
            time.sleep(0.5)
        watchdog.step_done()
        assert 60.4 <= watchdog.limit_s < 61
        for _ in range(20):
            watchdog.step_done()
        assert watchdog.limit_s < 60.4, "only the last 20 count"


def test_without_a_limit_nothing_is_watched() -> None:
    with Watchdog(slack_s=math.inf, patience_s=1) as watchdog:
        watchdog.step_done()
        assert watchdog.limit_s == math.inf


@pytest.mark.parametrize("slack_s", [0.0, -1.0, math.nan])
def test_a_limit_that_is_none_is_refused(slack_s: float) -> None:
    with pytest.raises(ValueError, match="slack_s="):
        Watchdog(slack_s=slack_s, patience_s=1)


def test_the_busy_clock_counts_waiting_for_data_and_the_work_before_the_first_collective() -> None:
    clock = BusyClock(torch.device("cpu"))
    for _ in range(2):
        clock.start(wait_s=1.0)
        time.sleep(0.1)
        clock.stop()
        time.sleep(0.1)
    assert 1.1 <= clock.take_s() < 1.19
    assert clock.take_s() == 0
