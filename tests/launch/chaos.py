"""Chaos for launchers: seeded trials in which calls fail, watches drop, the launcher is killed and started again."""

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from components.launch.cluster import PATHS
from components.launch.lifecycle import Limits
from components.launch.reaper import reap
from components.runtime.errors import StageFailure
from components.runtime.logs import Log
from tests.launch.api_server import api_client, api_server
from tests.launch.launchers import Launch, crash, job, preempted, said
from tests.launch.simulated_cluster import START, Call, End, Plan

LIMITS = Limits(code_restarts=1, infrastructure_restarts=10, queue_timeout_s=7200, run_timeout_s=100_000)
FAULT_RATE = 0.12
FAULTS = ("429", "500", "503", "504", "reset", "lose", "half")
MOST_STARTS = 60
LONG_S = 1200.0
SETTLED_S = 150.0  # after the launcher's end, or the reaper's: pods take up to 90 s to go
URLLIB3_RETRIES = 3
BAD: tuple[Callable[[], Plan], ...] = (
    lambda: Plan(ends=preempted()),
    lambda: Plan(
        ends={0: End(code=137, pod_reason="Evicted"), 1: End(code=1, lines=[said("failed", 2, problem="NCCL")])}
    ),
    lambda: Plan(ends={1: End(is_node_lost=True)}, leaves_s=90),
    lambda: Plan(ends={0: End(code=143, is_disrupted=True)}, run_s=5),
)


class KilledError(BaseException):
    """SIGKILL, as far as the launcher's own code can tell."""


@dataclass
class Trial:
    """What is going to happen, drawn from a seed, and what must come of it.

    Attributes:
        plans: The attempts' fates.
        codes: The exit codes that are right.
        num_jobs: How many jobs are made, one after the other; a cancelled run makes at most these.
        kills: The launcher's calls, counted over all its lives, before or after which it is killed.
        cancel_at: When the run is cancelled, in seconds from the start; 0: it isn't.
        is_abandoned: The launcher is not started again after its last kill: the run is over, the reaper comes.
    """

    dice: random.Random
    plans: list[Plan]
    codes: set[int]
    num_jobs: int
    kills: dict[int, bool]
    cancel_at: float = 0.0
    is_abandoned: bool = False


@dataclass
class Result:
    """What came of a trial."""

    code: int | None
    num_jobs: int
    most_at_once: int
    num_running: int
    num_left: int
    is_done: bool
    num_after_done: int
    num_starts: int
    num_kills: int
    num_faults: int
    words: str

    def harms(self, trial: Trial) -> list[str]:
        """Returns what harms a user, whatever the launcher promises: any launcher can be held to it.

        Finished jobs that wait for their time to live are no harm, nor is another exit code for the same outcome, nor
        are more attempts at what fails.
        """
        is_open = trial.is_abandoned or trial.cancel_at
        checks = {
            "two gangs at once": self.most_at_once <= 1,
            "still running": self.num_running == 0,
            "trained again when done": self.num_after_done == 0,
            "wrong outcome": is_open or (self.code == 0) == (0 in trial.codes),
            "success without a result": self.code != 0 or self.is_done,
        }
        return [harm for harm, is_right in checks.items() if not is_right]

    def wrongs(self, trial: Trial) -> list[str]:
        """Returns what is not as our launcher promises it, the harms included."""
        is_early = bool(trial.cancel_at or trial.is_abandoned)
        checks = {
            f"exit code {self.code}, not {trial.codes}": trial.is_abandoned or self.code in trial.codes,
            f"{self.num_jobs} jobs, not {trial.num_jobs}": self.num_jobs == trial.num_jobs
            or (is_early and self.num_jobs < trial.num_jobs),
            f"{self.num_left} jobs and pods left": self.num_left == 0,
        }
        return self.harms(trial) + [wrong for wrong, is_right in checks.items() if not is_right]


def draw(seed: int) -> Trial:
    """Returns the trial of a seed."""
    dice = random.Random(seed)
    plans = [dice.choice(BAD)() for _ in range(dice.randrange(4))]
    end = dice.randrange(5)
    bad_input = {1: End(code=1, lines=[said("bad_input", 1, problem="--width=97")])}
    last, code = [Plan()], 0
    if end == 3:
        last, code = [Plan(ends=crash(rank=dice.randrange(2))) for _ in range(1 + LIMITS.code_restarts)], 1
    elif end == 4:
        last, code = [Plan(ends=bad_input)], 2
    plans += last
    for plan in plans:
        plan.queue_s, plan.pull_s, plan.run_s = dice.uniform(1, 60), dice.uniform(1, 60), dice.uniform(5, 120)
        plan.leaves_s = max(plan.leaves_s, dice.uniform(1, 60))
    trial = Trial(dice, plans, {code}, len(plans), {dice.randrange(150): dice.random() < 0.5 for _ in range(4)})
    ending = dice.randrange(6)
    if ending == 0:
        trial.cancel_at, trial.codes = dice.uniform(1, 200), {3, code}
    elif ending == 1:
        trial.is_abandoned = True
        trial.kills = {number: dice.random() < 0.5 for number in dice.sample(range(60), 2)}
    if ending < 2:
        for plan in plans:
            plan.run_s = LONG_S  # else what was left running would end by itself before anybody looks
    return trial


@dataclass
class Mortal:
    """Counts a launcher's calls over all its lives and kills it at those that were drawn."""

    kills: dict[int, bool]
    num_calls: int = 0
    num_kills: int = 0

    def client(self, api: client.ApiClient) -> client.ApiClient:
        send = api.call_api

        def call(*args: Any, **how: Any) -> Any:
            number, self.num_calls = self.num_calls, self.num_calls + 1
            if number in self.kills and not self.kills[number]:
                self.num_kills += 1
                raise KilledError
            answer = send(*args, **how)
            if number in self.kills:
                answer.data  # noqa: B018, it has arrived
                self.num_kills += 1
                raise KilledError
            return answer

        api.call_api = call
        return api


@dataclass
class Faults:
    """Draws what goes wrong with each call."""

    dice: random.Random
    rate: float
    num: int = field(default=0)

    def __call__(self, call: Call) -> str:
        if self.dice.random() >= self.rate:
            return ""
        self.num += 1
        return self.dice.choice(FAULTS)


Start = Callable[[Launch, client.ApiClient, Callable[[], bool]], int | None]


def run_trial(trial: Trial, folder: Path, start: Start, fault_rate: float = FAULT_RATE) -> Result:
    """Runs one trial.

    Args:
        trial: What happens.
        folder: The stage's folder.
        start: Starts a launcher on a connection, which may be asked whether it has to stop, and returns its exit code;
            None: it broke off, and Kubeflow starts the step again.
        fault_rate: Of all calls.
    """
    with api_server() as server:
        server.plans = trial.plans
        launch = Launch(server, folder)
        workflow = server.add("Workflow", "flow", status={"phase": "Running"})
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}
        launch.owners = [owner | {"uid": workflow["metadata"]["uid"]}]
        faults, mortal = Faults(trial.dice, fault_rate), Mortal(trial.kills)
        server.fault = faults
        code = None
        num_starts = 0

        def is_stopping() -> bool:
            return bool(trial.cancel_at) and server.now >= START + trial.cancel_at

        while code is None and num_starts < MOST_STARTS:
            num_starts += 1
            with contextlib.suppress(KilledError):
                code = start(launch, mortal.client(api_client(server)), is_stopping)
            if trial.is_abandoned and mortal.num_kills >= 2:
                break
            if code is None:
                server.sleep(trial.dice.uniform(1, 90))  # until the step's pod is started again
        if trial.is_abandoned:
            workflow["status"]["phase"] = "Failed"
            sweep(launch)
        server.fault = lambda call: ""
        server.sleep(SETTLED_S)
        return Result(
            code=code,
            num_jobs=len(server.created),
            most_at_once=server.most_at_once,
            num_running=sum(pod["status"]["phase"] in ("Pending", "Running") for pod in server.of("Pod")),
            num_left=len(server.of("Job")) + len(server.of("Pod")),
            is_done=launch.out.exists("manifest.json"),
            num_after_done=len(server.created) - launch.num_jobs_when_done if launch.num_jobs_when_done else 0,
            num_starts=num_starts,
            num_kills=mortal.num_kills,
            num_faults=faults.num,
            words=launch.words.getvalue(),
        )


def sweep(launch: Launch) -> None:
    """Runs the reaper as its CronJob does, through the same faults."""
    with contextlib.suppress(StageFailure):
        reap(launch.cluster(), Log("reaper", launch.words))


def start_ours(launch: Launch, api: client.ApiClient, is_stopping: Callable[[], bool]) -> int:
    """Starts our launcher."""
    ours = job()
    ours["metadata"]["ownerReferences"] = launch.owners
    return launch.run(api, limits=LIMITS, the_job=ours, is_stopping=is_stopping)


def start_plain(launch: Launch, api: client.ApiClient, is_stopping: Callable[[], bool]) -> int | None:
    """Starts an imitation of a launcher around TorchX's `schedule` and `wait`: a random name, one create, then polls.

    It is dealt with kindly: reads are repeated as urllib3 does by default, its jobs bear the owner, the label for our
    reaper and our Volcano policies, and a step that breaks off or whose job failed is started again by Kubeflow.
    """
    jobs = PATHS["Job"].format(namespace="runs")
    plain = job()
    plain["metadata"] |= {"name": f"train-{len(launch.server.created)}", "ownerReferences": launch.owners}
    cluster = launch.cluster(api)

    def poll(name: str) -> str:
        for _ in range(URLLIB3_RETRIES):
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                return str(
                    json.loads(cluster._send("GET", f"{jobs}/{name}", {}, None, 5).data)["status"]["state"]["phase"]
                )
        return str(json.loads(cluster._send("GET", f"{jobs}/{name}", {}, None, 5).data)["status"]["state"]["phase"])

    try:
        cluster._send("POST", jobs, {}, plain, 5)
        while not is_stopping():
            phase = poll(plain["metadata"]["name"])
            if phase == "Completed":
                return 0
            if phase in ("Failed", "Terminated", "Aborted"):
                return 1 if len(launch.server.created) > LIMITS.infrastructure_restarts else None
            launch.server.sleep(10)
        return 3
    except (client.ApiException, OSError, ValueError, urllib3.exceptions.HTTPError):
        return None
