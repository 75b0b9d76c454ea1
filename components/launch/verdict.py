"""Why an attempt ended: the stage's own words first, then torchrun's, then what Kubernetes knows of the pods."""

import dataclasses
import enum
import json
import re
from collections.abc import Mapping, Sequence

from components.launch.cluster import Object
from components.launch.sight import DELETED, Sight, container_state, dig, is_lost, name_of, seconds_of
from components.runtime import errors

TORCHRUN_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\)")  # torch.distributed.elastic, of its first failed worker
SIGKILL, SIGTERM = -9, -15
KILLED_CODES = frozenset({128 - SIGKILL, 128 - SIGTERM})
LAST_LINES = 12


class Ending(enum.StrEnum):
    """How an attempt ended, which decides whether there is another one."""

    DONE = "done"
    BAD_INPUT = "bad_input"
    PREEMPTED = "preempted"  # the stage has saved and asks to be continued: on nobody's budget
    LOST = "lost"  # the cluster took it away: on the budget of infrastructure
    FAILED = "failed"  # the program ended it: on the budget of code
    STUCK = "stuck"  # it did not start
    OVERRUN = "overrun"
    ABORTED = "aborted"  # a person stopped the job


WORDS = {"bad_input": Ending.BAD_INPUT, "preempted": Ending.PREEMPTED, "failed": Ending.FAILED}
BY_CODE: dict[int | None, Ending] = {errors.EXIT_BAD_INPUT: Ending.BAD_INPUT, errors.EXIT_PREEMPTED: Ending.PREEMPTED}
SEVERITY = (Ending.BAD_INPUT, Ending.PREEMPTED, Ending.LOST, Ending.FAILED)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How an attempt ended, and the sentence that says so."""

    ending: Ending
    text: str


@dataclasses.dataclass(frozen=True)
class _Rank:
    """How one pod ended."""

    ending: Ending
    reason: str
    at: float
    is_sure: bool = False


def judge(sight: Sight, tails: Mapping[int, Sequence[str]], namespace: str) -> Verdict:
    """Returns why the attempt ended.

    A node that vanishes makes the other ranks fail before anybody notices it; a rank that fails makes torchrun and
    Volcano stop the others. So bad input outranks everything, then comes what Kubernetes knows for sure (evicted,
    lost, OOMKilled), and of everything else the earliest counts.

    Args:
        sight: The gang at its end.
        tails: The last lines of each rank's log.
        namespace: For the command that shows more; empty: there is none.
    """
    if sight.phase == "Aborted":
        return Verdict(Ending.ABORTED, f"The job {sight.name} was aborted from outside: submit the run again.")
    if not sight.pods:
        return Verdict(Ending.LOST, f"The job {sight.name} is {sight.phase} and its pods are gone.")
    ranks = {rank: found for rank, pod in enumerate(sight.pods) if (found := _rank(pod, tails.get(rank, ())))}
    if not ranks:
        if sight.phase == "Completed":
            return Verdict(Ending.FAILED, f"All ranks of {sight.name} exited with 0, and none wrote a manifest.")
        return Verdict(Ending.LOST, f"The job {sight.name} is {sight.phase}, and no pod says why.")
    rank = min(ranks, key=lambda r: _order(ranks[r], r))
    return Verdict(ranks[rank].ending, _sentence(rank, sight.pods[rank], ranks[rank], tails.get(rank, ()), namespace))


def _order(found: _Rank, rank: int) -> tuple[bool, bool, int, float, int]:
    severity = SEVERITY.index(found.ending) if found.is_sure else 0
    return (found.ending is not Ending.BAD_INPUT, not found.is_sure, severity, found.at, rank)


def _rank(pod: Object, tail: Sequence[str]) -> _Rank | None:
    """Returns how one pod ended; None where it goes on, or ended well."""
    ended = container_state(pod).get("terminated") or {}
    code = ended.get("exitCode")
    lost = is_lost(pod)
    if code == 0 or (code is None and not lost):
        return None
    at = _ended_at(pod)
    is_sure = bool(lost) and lost != DELETED
    lines = [*(ended.get("message") or "").splitlines(), *tail]
    said = _said(lines)
    torchrun = [int(found[1]) for line in lines if (found := TORCHRUN_FAILED.search(line))]
    if ended.get("reason") == "OOMKilled":
        text = f"OOMKilled (exit code {code}): raise the pool's memory or lower the batch"
        return _Rank(Ending.FAILED, text, at, is_sure=True)
    if said and said[0] in (Ending.BAD_INPUT, Ending.PREEMPTED) and (lost or not torchrun):
        return _Rank(*said, at, is_sure)
    if lost:
        text = f"{lost} ({dig(pod, 'status', 'message') or 'the node or the pod was taken away'})"
        return _Rank(Ending.LOST, text, at, is_sure)
    if torchrun:
        return _Rank(*_of_worker(torchrun[0], said), at)
    if said:
        return _Rank(*said, at)
    if code in KILLED_CODES:
        return _Rank(Ending.LOST, f"exit code {code}: killed from outside", at)
    return _Rank(BY_CODE.get(code, Ending.FAILED), f"exit code {code}", at)


def _ended_at(pod: Object) -> float:
    """Returns when a pod's end began."""
    ended = container_state(pod).get("terminated") or {}
    times = [seconds_of(ended["finishedAt"])] if ended.get("finishedAt") else []
    if due := pod["metadata"].get("deletionTimestamp"):  # the time by which it must be gone
        times.append(seconds_of(due) - pod["metadata"].get("deletionGracePeriodSeconds", 0))
    return min(times, default=0.0)


def _of_worker(code: int, said: tuple[Ending, str] | None) -> tuple[Ending, str]:
    """Returns how a pod ended whose torchrun names the exit code of the worker that failed first."""
    if code == SIGTERM:
        return Ending.LOST, "a process was stopped from outside (signal 15)"
    if code == SIGKILL:
        return Ending.FAILED, "a process was killed (signal 9), most likely for its memory: raise the pool's memory"
    ending = BY_CODE.get(code, Ending.FAILED)
    return ending, said[1] if said and said[0] is ending else f"exit code {code}"


def _said(lines: Sequence[str]) -> tuple[Ending, str] | None:
    """Returns the first of the stage's own last words, and what it gives as the reason."""
    for line in lines:
        start = line.find('{"time"')
        if start < 0:
            continue
        try:
            event = json.loads(line[start:])
        except ValueError:
            continue
        if event.get("event") in WORDS:
            ending = WORDS[event["event"]]
            code = {Ending.BAD_INPUT: 2, Ending.PREEMPTED: 3, Ending.FAILED: 1}[ending]
            return ending, f"exit code {code}: {event.get('problem') or event.get('reason') or 'no reason given'}"
    return None


def _sentence(rank: int, pod: Object, found: _Rank, tail: Sequence[str], namespace: str) -> str:
    node = dig(pod, "spec", "nodeName") or "no node"
    lines = "".join(f"\n  | {line}" for line in tail[-LAST_LINES:])
    look = f" For more: kubectl -n {namespace} get events --field-selector involvedObject.name={name_of(pod)}"
    return f"Rank {rank} ({name_of(pod)} on {node}) ended: {found.reason}.{look if namespace else ''}{lines}"
