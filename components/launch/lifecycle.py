"""The life of a gang, from its submission to its manifest, as one table.

Each pass looks at the cluster and decides from what it sees and from what storage remembers. A launcher may be killed
anywhere and started again, twice at once even: the name is the gang's own, the job's uid guards each deletion, and an
attempt is written down before its job goes. The only way out leads through ABSENT: nothing is left behind.

    state     what is seen                          what is done
    ABSENT    no job, no pod                        manifest there: done; budget used up: say why and fail;
                                                    else look for missing Secrets, pause after failures, create
    LEAVING   a job or a pod that is being deleted  wait for it, at most `leaving_timeout_s`
    QUEUED    a pod without a node                  say why; give up after `queue_timeout_s`, or sooner when no node
                                                    is allowed (`placement_timeout_s`)
    STARTING  every pod has a node, not all run     say why; give up after `stuck_timeout_s` of an image that can't be
                                                    pulled and the like, `start_timeout_s` of anything
    RUNNING   all run                               follow the logs; give up after `run_timeout_s` of all attempts
    BROKEN    a pod failed, others go on            follow the logs of the others for `grace_s`, then as ENDED
    ENDED     no pod runs any more                  keep the logs, judge, write it down, delete
    (asked to stop, in any state)                   delete, confirm that nothing is left
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TextIO

from components.launch import troubles
from components.launch.attempts import ATTEMPT, Attempt, read_attempts, write_attempt
from components.launch.cluster import Cluster, Object
from components.launch.gang import Pool
from components.launch.rank_logs import RankLogs
from components.launch.sight import Sight, State, is_lost, look, name_of, state_of
from components.launch.stopping import Stop
from components.launch.verdict import Ending, Verdict, judge
from components.runtime import errors, metrics
from components.runtime.errors import BadInput, StageFailure
from components.runtime.logs import Log
from components.runtime.manifest import read_manifest
from components.runtime.storage import Folder

LOOK_EVERY_S = 5.0
SAY_EVERY_S = 600.0
KEEP_EVERY_S = 300.0
LONGEST_PAUSE_S = 300.0
FAILED_CODES = {Ending.BAD_INPUT: errors.EXIT_BAD_INPUT}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How often a gang is started again, and how long each part of its life may take."""

    infrastructure_restarts: int = 20
    code_restarts: int = 2
    queue_timeout_s: float = 24 * 3600.0
    placement_timeout_s: float = 600.0
    stuck_timeout_s: float = 150.0
    start_timeout_s: float = 1800.0
    run_timeout_s: float = 14 * 24 * 3600.0
    grace_s: float = 30.0
    leaving_timeout_s: float = 1800.0
    restart_pause_s: float = 10.0

    @classmethod
    def of(cls, pool: Pool) -> "Limits":
        """Returns the limits that a node pool sets."""
        return cls(
            infrastructure_restarts=pool.infrastructure_restarts,
            code_restarts=pool.code_restarts,
            queue_timeout_s=pool.queue_timeout_seconds,
            run_timeout_s=pool.run_timeout_seconds,
        )


def run_gang(
    job: Object,
    cluster: Cluster,
    out: Folder,
    *,
    log: Log,
    limits: Limits | None = None,
    stop: Stop | None = None,
    clock: Callable[[], float] = time.time,
    screen: TextIO = sys.stdout,
) -> int:
    """Submits the job or attaches to it, follows it to its end, and returns the stage's exit code.

    Args:
        job: The Volcano job; its name is the gang's, and the same for every launcher of it.
        cluster: Where it runs.
        out: The stage's folder: its manifest means done, `logs/<attempt>/<rank>.log` is written below.
        log: Where the launcher says what happens.
        limits: Budgets and timeouts.
        stop: Whether the launcher was asked to stop; where its own pod is evicted, the gang is left for the next one.
        clock: Seconds since 1970.
        screen: Where the ranks' lines are shown.

    Raises:
        BadInput: A Secret or ConfigMap is missing, or the cluster refuses the job; nothing runs.
        StageFailure: The API server or the storage is away for too long; the gang is left as it is.
    """
    life = _Life(job, cluster, out, log, limits or Limits(), stop or Stop(), clock, screen)
    with contextlib.closing(life):
        while (code := life.step()) is None:
            pass
        return code


class _Life:
    """One launcher's view of a gang."""

    def __init__(
        self,
        job: Object,
        cluster: Cluster,
        out: Folder,
        log: Log,
        limits: Limits,
        stop: Stop,
        clock: Callable[[], float],
        screen: TextIO,
    ) -> None:
        self._job, self._name, self._cluster, self._out, self._log = job, name_of(job), cluster, out, log
        self._limits, self._stop = limits, stop
        self._clock, self._screen, self._logs = clock, screen, out.folder("logs")
        self._began = clock()
        self._state, self._since = State.ABSENT, self._began
        self._uid, self._number = "", 0
        self._stuck_since = self._placement_since = self._kept_at = self._said_at = 0.0
        self._said = ""
        self._rank_logs: RankLogs | None = None
        self._is_cancelled = False
        for ending in Ending:
            metrics.count("gang_attempts", 0, ending=str(ending))

    def step(self) -> int | None:
        """Looks once, acts once, waits; returns the exit code at the end."""
        sight = look(self._cluster, self._name)
        state = state_of(sight)
        self._notice(sight, state)
        if self._stop.is_asked() and not self._is_cancelled:
            if self._is_evicted():
                self._log.event("left_running", job=self._name, reason="this pod is evicted; the retried step attaches")
                return errors.EXIT_PREEMPTED
            self._is_cancelled = True
            self._log.event("cancelling", job=self._name)
        if self._is_cancelled:
            return self._cancel(sight, state)
        act = {
            State.ABSENT: self._absent,
            State.LEAVING: self._leaving,
            State.QUEUED: self._pending,
            State.STARTING: self._pending,
            State.RUNNING: self._running,
            State.BROKEN: self._broken,
            State.ENDED: self._ended,
        }
        code = act[state](sight)
        if code is None:
            with self._stop.asleep():
                self._cluster.wait(sight.job, LOOK_EVERY_S)
        return code

    def close(self) -> None:
        """Forgets what is on this machine."""
        if self._rank_logs:
            self._rank_logs.close()

    def _notice(self, sight: Sight, state: State) -> None:
        """Keeps track of which job this is and how long it has been in its state."""
        for each in State:
            metrics.gauge("gang_state", float(each is state), state=str(each))
        if self._uid and sight.uid != self._uid:
            self._write_down(self._uid, Verdict(Ending.LOST, f"The job {self._name} was deleted from outside."), 0.0)
            self._uid = ""
        if sight.job and sight.uid != self._uid and state is not State.LEAVING:
            annotations = sight.job["metadata"].get("annotations") or {}
            self._uid, self._number = sight.uid, int(annotations.get(ATTEMPT, "1"))
            self._stuck_since = self._placement_since = 0.0
            self.close()
            self._rank_logs = RankLogs(self._cluster, self._logs.folder(str(self._number)), self._screen)
            self._log.event("attached", job=self._name, attempt=self._number, phase=sight.phase)
        if state is not self._state:
            self._state, self._since, self._said = state, self._clock(), ""
            self._log.event(str(state), job=self._name, **({"attempt": self._number} if self._uid else {}))

    def _absent(self, sight: Sight) -> int | None:
        if read_manifest(self._out) is not None:
            self._log.event("gang_done", job=self._name, out=self._out.uri)
            return errors.EXIT_DONE
        attempts = read_attempts(self._logs)
        own = [attempt for attempt in attempts if attempt.job == self._name]
        if (verdict := self._used_up(own)) is not None:
            self._log.event("failed", problem=verdict.text, logs=self._logs.uri)
            return FAILED_CODES.get(verdict.ending, errors.EXIT_FAILED)
        if problems := troubles.missing(self._cluster, self._job):
            raise BadInput(*problems)
        if self._clock() < self._pause_until(own):
            return None
        number = attempts[-1].number + 1 if attempts else 1
        about = self._job["metadata"]
        marked = about | {"annotations": {**(about.get("annotations") or {}), ATTEMPT: str(number)}}
        if no_room := self._cluster.create(self._job | {"metadata": marked}):
            self._say("waits_for_quota", no_room)
            metrics.gauge("gang_queue_seconds", self._clock() - self._since)
            if self._clock() - self._since > self._limits.queue_timeout_s:
                problem = f"There was no room for {self._name} in {self._limits.queue_timeout_s:.0f} s: {no_room}"
                self._log.event("failed", problem=problem)
                return errors.EXIT_FAILED
        return None

    def _leaving(self, sight: Sight) -> int | None:
        left = [f"pod/{name_of(pod)}" for pod in sight.pods + sight.strays] or [f"jobs.batch.volcano.sh/{self._name}"]
        self._say("waits_until_gone", ", ".join(left))
        if self._clock() - self._since > self._limits.leaving_timeout_s:
            raise StageFailure(
                f"{', '.join(left)} would not go in {self._limits.leaving_timeout_s:.0f} s, most likely because the "
                f"node is lost. When it surely is off: kubectl -n {self._cluster.namespace} delete --force {left[0]}, "
                "then run the step again."
            )
        return None

    def _pending(self, sight: Sight) -> int | None:
        events, quotas = troubles.explanations(self._cluster, sight)
        kind, text = troubles.trouble(sight, events) or (troubles.Trouble.QUEUE, "nothing is said about the reason yet")
        self._say(f"is_{self._state}", text, quota=quotas, kind=str(kind))
        now, limits = self._clock(), self._limits
        if self._state is State.QUEUED:
            metrics.gauge("gang_queue_seconds", now - sight.created_at())
        is_stuck, is_misplaced = kind is troubles.Trouble.STUCK, kind is troubles.Trouble.PLACEMENT
        self._stuck_since = (self._stuck_since or now) if is_stuck else 0.0
        self._placement_since = (self._placement_since or now) if is_misplaced else 0.0
        allowed = {
            "could not start": (self._stuck_since, limits.stuck_timeout_s, is_stuck),
            "has no node that it is allowed on": (self._placement_since, limits.placement_timeout_s, is_misplaced),
            "waited in the queue": (sight.created_at(), limits.queue_timeout_s, self._state is State.QUEUED),
            "did not start": (self._since, limits.start_timeout_s, self._state is State.STARTING),
        }
        for what, (since, seconds, applies) in allowed.items():
            if applies and now - since > seconds:
                look_at = f"kubectl -n {self._cluster.namespace} get events --sort-by=.lastTimestamp"
                reason = "; ".join([text, *quotas])
                self._end(sight, Verdict(Ending.STUCK, f"{self._name} {what} for {seconds:.0f} s: {reason}. {look_at}"))
                break
        return None

    def _running(self, sight: Sight) -> int | None:
        self._follow(sight)
        earlier = sum(a.ran_s for a in read_attempts(self._logs) if a.job == self._name)
        if earlier + sight.ran_s(self._clock()) > self._limits.run_timeout_s:
            most_s = f"{self._limits.run_timeout_s:.0f} s"
            text = f"{self._name} ran for more than the {most_s} that it may: raise the pool's runTimeoutSeconds"
            self._end(sight, Verdict(Ending.OVERRUN, text))
        return None

    def _broken(self, sight: Sight) -> int | None:
        self._follow(sight)
        gone_on = [name_of(pod) for pod in sight.pods if not is_lost(pod) and pod["status"].get("phase") == "Running"]
        if not gone_on or self._clock() - self._since > self._limits.grace_s:
            self._ended(sight)
        return None

    def _ended(self, sight: Sight) -> int | None:
        """Ends an attempt whose outcome storage may know already: written down first, deleted then."""
        self._follow(sight)
        if read_manifest(self._out) is not None:
            self._end(sight, Verdict(Ending.DONE, "The manifest is there."))
        else:
            tails = self._rank_logs.tails if self._rank_logs else {}
            self._end(sight, judge(sight, {r: list(t) for r, t in tails.items()}, self._cluster.namespace))
        return None

    def _end(self, sight: Sight, verdict: Verdict) -> None:
        self._keep_logs()
        self._write_down(sight.uid, verdict, sight.ran_s(self._clock()))
        self._uid = ""
        self._cluster.delete(sight.job or {})

    def _cancel(self, sight: Sight, state: State) -> int | None:
        """Deletes until nothing is left, for as long as this process is let live."""
        if state is State.ABSENT:
            is_done = read_manifest(self._out) is not None
            self._log.event("cancelled", job=self._name, left="nothing")
            return errors.EXIT_DONE if is_done else errors.EXIT_PREEMPTED
        self._uid = ""
        if sight.job and not sight.job["metadata"].get("deletionTimestamp"):
            self._cluster.delete(sight.job)
        self._cluster.wait(sight.job, 1.0)
        return None

    def _used_up(self, own: list[Attempt]) -> Verdict | None:
        """Returns why there is no further attempt; None: there is one."""
        if not own or own[-1].ending is Ending.DONE:
            return None
        last = own[-1]
        limits = self._limits
        if last.ending in (Ending.BAD_INPUT, Ending.ABORTED, Ending.OVERRUN):
            return Verdict(last.ending, last.text)
        if last.ending is Ending.STUCK:  # a step that is retried by a person or by KFP queues again
            return Verdict(last.ending, last.text) if last.ended_at >= self._began else None
        for ending, most in ((Ending.FAILED, limits.code_restarts), (Ending.LOST, limits.infrastructure_restarts)):
            num_ended = sum(attempt.ending is ending for attempt in own)
            if num_ended > most:
                counted = f"attempt {num_ended} of {most + 1} that ended so ({ending})"
                return Verdict(ending, f"{last.text}\nNo further attempt: it was {counted}.")
        if sum(attempt.ran_s for attempt in own) > limits.run_timeout_s:
            return Verdict(Ending.OVERRUN, f"{last.text}\nNo further attempt: runTimeoutSeconds is used up.")
        return None

    def _pause_until(self, own: list[Attempt]) -> float:
        """Returns when the next attempt may begin: a broken node is not to eat the whole budget in a minute."""
        num_bad = sum(attempt.ending in (Ending.LOST, Ending.FAILED) for attempt in own)
        if not num_bad:
            return 0.0
        return own[-1].ended_at + min(LONGEST_PAUSE_S, self._limits.restart_pause_s * 2.0 ** (num_bad - 1))

    def _write_down(self, uid: str, verdict: Verdict, ran_s: float) -> None:
        if any(attempt.uid == uid for attempt in read_attempts(self._logs)):
            return
        write_attempt(
            self._logs, Attempt(self._number, self._name, uid, verdict.ending, verdict.text, self._clock(), ran_s)
        )
        metrics.count("gang_attempts", ending=str(verdict.ending))
        self._log.event("attempt_ended", attempt=self._number, ending=str(verdict.ending), reason=verdict.text)

    def _follow(self, sight: Sight) -> None:
        """Shows and now and then keeps the logs; what goes wrong with it is no reason to stop a training."""
        if self._rank_logs is None:
            return
        try:
            self._rank_logs.follow(sight.pods)
        except StageFailure as error:
            self._say("logs_not_read", str(error))
        if self._clock() - self._kept_at > KEEP_EVERY_S:
            self._keep_logs()

    def _keep_logs(self) -> None:
        self._kept_at = self._clock()
        try:
            if self._rank_logs:
                self._rank_logs.keep()
        except StageFailure as error:
            self._say("logs_not_kept", str(error))

    def _is_evicted(self) -> bool:
        pod = self._cluster.read("Pod", self._stop.own_pod) if self._stop.own_pod else None
        conditions = (pod or {}).get("status", {}).get("conditions") or []
        return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions)

    def _say(self, event: str, text: str, **facts: object) -> None:
        """Writes an event when its text is a new one, and otherwise every ten minutes."""
        if text != self._said or self._clock() - self._said_at > SAY_EVERY_S:
            self._said, self._said_at = text, self._clock()
            self._log.event(event, job=self._name, reason=text, **{k: v for k, v in facts.items() if v})
