"""Shares numbered tasks among worker processes and pods; a task that is done stays done, whoever did it."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from components.build_shards.params import Params
from components.runtime import metrics
from components.runtime.errors import Preempted, StageFailure
from components.runtime.logs import Progress
from components.runtime.manifest import MANIFEST_NAME
from components.runtime.process import leave_signals_to_parent
from components.runtime.stage import Stage

POLL_S = 0.2
LOOK_AT_OTHERS_EVERY_S = 2.0
TAKE_OVER_AFTER_S = 60.0  # without anything finished by another pod


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks 0 to `num_tasks` - 1, which don't depend on one another.

    Attributes:
        unit: What a task makes, for the progress display.
        do: Does one; it runs in a worker process.
        arguments: Returns what `do` gets, by the task's number.
        finished: Returns the numbers of the tasks that are done, by whichever pod.
        is_enough: Given these, returns whether the rest needn't be done.
    """

    num_tasks: int
    unit: str
    do: Callable[..., Any]
    arguments: Callable[[int], tuple[Any, ...]]
    finished: Callable[[], set[int]]
    is_enough: Callable[[set[int]], bool] = lambda done: False


class FinishedElsewhere(Exception):
    """Another pod has put everything together, and nothing is left to do."""


class Crew:
    """The workers of this pod, and its place among the pods.

    Args:
        params: How many workers and pods.
        stage: Where progress is shown, and who says when to stop.
    """

    def __init__(self, params: Params, stage: Stage) -> None:
        self.params, self.stage = params, stage

    def work_through(self, tasks: Tasks) -> set[int]:
        """Returns the numbers of the finished tasks, once all are, or enough.

        A pod begins with its own share, and takes over what the others leave unfinished for too long.

        Raises:
            FinishedElsewhere: Another pod has put everything together meanwhile.
            Preempted: The stage was asked to stop.
            StageFailure: A worker process died.
        """
        done = tasks.finished()
        queue = [n for n in range(self.params.pod_index, tasks.num_tasks, self.params.num_pods) if n not in done]
        try:
            with self._pool(len(queue)) as pool, self.stage.progress(tasks.num_tasks, tasks.unit) as bar:
                bar.advance(len(done))
                return self._work_through(tasks, done, queue, pool, bar)
        except BrokenProcessPool as error:
            raise StageFailure(
                "a worker process was killed, most likely for memory: give the pod more, or lower --num_workers; "
                "what was finished stays in the work folder."
            ) from error
        except FileNotFoundError as error:  # the work folder goes when the stage is done
            self._look_for_result()
            raise error

    def _work_through(
        self, tasks: Tasks, done: set[int], queue: list[int], pool: ProcessPoolExecutor, bar: Progress
    ) -> set[int]:
        running: dict[Future[metrics.Counts], int] = {}
        looked = changed = time.monotonic()
        while len(done) < tasks.num_tasks and not tasks.is_enough(done):
            if self.stage.stopping():
                raise Preempted("what was finished stays in the work folder")
            while queue and len(running) < self.params.num_workers:
                number = queue.pop(0)
                running[pool.submit(_run, tasks.do, tasks.arguments(number))] = number
            before = len(done)
            for future in _finished(running):
                metrics.merge(future.result())
                done.add(running.pop(future))
            if self.params.num_pods > 1 and time.monotonic() - looked > LOOK_AT_OTHERS_EVERY_S:
                self._look_for_result()
                done |= tasks.finished()
                queue = [n for n in queue if n not in done]
                looked = time.monotonic()
            if len(done) > before:
                changed = time.monotonic()
                bar.advance(len(done) - before)
            elif not queue and not running and time.monotonic() - changed > TAKE_OVER_AFTER_S:
                changed = time.monotonic()
                queue = self._left_by_others(tasks.num_tasks, done)
        return done

    def _look_for_result(self) -> None:
        if self.stage.out.exists(MANIFEST_NAME):
            raise FinishedElsewhere

    def _left_by_others(self, num_tasks: int, done: set[int]) -> list[int]:
        """Returns one unfinished task per worker; each pod looks from another place, so that few meet."""
        first = num_tasks * self.params.pod_index // self.params.num_pods
        undone = [n for n in (*range(first, num_tasks), *range(first)) if n not in done]
        return undone[: self.params.num_workers]

    @contextmanager
    def _pool(self, num_tasks: int) -> Iterator[ProcessPoolExecutor]:
        """Gives the worker processes, and ends them at once on the way out: unfinished tasks leave nothing behind."""
        context = multiprocessing.get_context("spawn")
        num_workers = max(1, min(self.params.num_workers, num_tasks))
        pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=leave_signals_to_parent)
        try:
            yield pool
        finally:
            workers = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()


def _finished(running: dict[Future[metrics.Counts], int]) -> set[Future[metrics.Counts]]:
    if not running:
        time.sleep(POLL_S)
        return set()
    return wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED).done


def _run(do: Callable[..., Any], arguments: tuple[Any, ...]) -> metrics.Counts:
    """Does one task in a worker, and returns what it counted."""
    do(*arguments)
    return metrics.drain()
