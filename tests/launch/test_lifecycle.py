"""The life of a gang against an API server: each way in which it may begin, wait, break and end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.launch.lifecycle import Limits
from components.runtime.errors import BadInput, StageFailure
from tests.launch.api_server import api_server
from tests.launch.launchers import LIMITS, NAME, Launch, crash, job, preempted, said
from tests.launch.simulated_cluster import START, End, Plan


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with api_server() as server:
        yield Launch(server, tmp_path / "out")


class _KilledError(BaseException):
    """SIGKILL, as far as the launcher's own code can tell."""


def kill_when(launch: Launch, condition: object) -> None:
    """Runs a launcher that is killed as soon as the condition holds."""

    def asked() -> bool:
        if condition():  # type: ignore[operator]
            raise _KilledError
        return False

    with pytest.raises(_KilledError):
        launch.run(is_stopping=asked)


def test_a_gang_runs_to_its_manifest_and_leaves_only_its_logs(launch: Launch) -> None:
    assert launch.run() == 0
    assert launch.is_empty() and launch.server.created == [NAME]
    assert launch.out.read("logs/1/0.log") == b"rank 0 begins\n"
    assert "[rank 1] rank 1 begins\n" in launch.screen.getvalue()


def test_fault_51_an_evicted_step_finds_its_gang_again(launch: Launch) -> None:
    kill_when(launch, lambda: any(p["status"]["phase"] == "Running" for p in launch.server.of("Pod")))
    assert launch.run() == 0
    assert launch.server.created == [NAME] and launch.is_empty()


def test_fault_51_an_eviction_is_no_cancel(launch: Launch) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    launch.server.add("Pod", "step", spec={}, status={"conditions": [condition]})
    is_stopping = lambda: launch.server.now > START + 20  # noqa: E731
    assert launch.run(is_stopping=is_stopping, own_pod="step") == 3
    assert [j["metadata"]["name"] for j in launch.server.of("Job")] == [NAME]
    assert "deletionTimestamp" not in launch.server.of("Job")[0]["metadata"]


def test_fault_52_a_retried_step_attaches_while_the_first_one_still_runs(launch: Launch) -> None:
    other = Launch(launch.server, launch.out.path)
    codes = []

    def in_between() -> bool:
        if launch.server.now > START + 30 and not codes:
            codes.append(other.run())
        return False

    assert launch.run(is_stopping=in_between) == 0
    assert codes == [0]
    assert launch.server.created == [NAME] and launch.server.most_at_once == 1


def test_fault_52_what_one_launcher_has_judged_the_other_does_not_take_for_lost(launch: Launch) -> None:
    line = said("bad_input", 1.0, problem="--width=97 is no multiple of --num_heads=4")
    launch.server.plans = [Plan(ends={0: End(code=1, lines=[line]), 1: End(code=1)})]
    other = Launch(launch.server, launch.out.path)
    codes = []

    def in_between() -> bool:
        if launch.server.now > START + 30 and not codes:
            codes.append(other.run())
        return False

    assert launch.run(is_stopping=in_between) == 2
    assert codes == [2] and launch.server.created == [NAME]


def test_fault_52_a_terminating_job_of_the_same_name_is_waited_for(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=10_000, leaves_s=200), Plan()]
    kill_when(launch, lambda: launch.server.now > START + 60)
    launch.server.begin_delete(launch.server.of("Job")[0], "Foreground")
    assert launch.run() == 0
    assert launch.server.created == [NAME, NAME] and launch.server.most_at_once == 1
    assert launch.events("leaving") and f"pod/{NAME}-node-0-0" in launch.events("waits_until_gone")[0]["reason"]


def test_pods_that_outlive_their_job_are_waited_for(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=10_000, leaves_s=200), Plan()]
    kill_when(launch, lambda: launch.server.now > START + 60)
    launch.server.begin_delete(launch.server.of("Job")[0], "Background")
    assert launch.run() == 0
    assert launch.server.created == [NAME, NAME] and launch.server.most_at_once == 1


def test_a_pod_that_never_goes_is_named(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=10_000, leaves_s=1e9)]
    kill_when(launch, lambda: launch.server.now > START + 60)
    launch.server.begin_delete(launch.server.of("Job")[0], "Foreground")
    with pytest.raises(StageFailure, match=f"kubectl -n runs delete --force pod/{NAME}-node-0-0"):
        launch.run()
    assert launch.server.created == [NAME]


def test_fault_53_a_finished_job_returns_its_manifest(launch: Launch) -> None:
    assert launch.run() == 0
    assert launch.run() == 0
    assert launch.server.created == [NAME]


def test_fault_53_a_job_that_finished_while_nobody_looked_is_not_run_again(launch: Launch) -> None:
    kill_when(launch, lambda: launch.server.now > START + 20)
    launch.server.sleep(3600)
    assert launch.run() == 0
    assert launch.server.created == [NAME] and launch.is_empty()


def test_a_job_that_completes_without_a_manifest_has_failed(launch: Launch) -> None:
    launch.server.on_done = lambda: None
    assert launch.run() == 1
    assert "none wrote a manifest" in launch.problem()


def test_fault_54_a_cancel_deletes_the_gang_and_confirms(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=10_000, leaves_s=40)]
    assert launch.run(is_stopping=lambda: launch.server.now > START + 30) == 3
    assert launch.is_empty() and launch.server.now < START + 90
    assert launch.events("cancelled")[0]["left"] == "nothing"


def test_fault_54_a_cancel_before_the_job_is_there_makes_none(launch: Launch) -> None:
    assert launch.run(is_stopping=lambda: True) == 3
    assert launch.server.created == []


def test_fault_55_survivors_go_after_their_logs_are_kept(launch: Launch) -> None:
    launch.server.plans = [Plan(ends=crash(rank=1))]
    assert launch.run(limits=Limits(code_restarts=0)) == 1
    assert launch.is_empty()
    assert launch.out.read("logs/1/0.log") == b"rank 0 begins\n"
    assert b"index out of bounds" in launch.out.read("logs/1/1.log")
    assert launch.server.now < START + 60 + 120, "long before Volcano's own clean-up"


def test_the_failure_names_rank_pod_node_exit_code_last_lines_and_command(launch: Launch) -> None:
    launch.server.plans = [Plan(ends=crash(rank=1))]
    launch.run(limits=Limits(code_restarts=0))
    text = launch.problem()
    for part in (
        f"Rank 1 ({NAME}-node-1-0 on node-1) ended: exit code 1: RuntimeError: index out of bounds",
        "| step 41",
        f"kubectl -n runs get events --field-selector involvedObject.name={NAME}-node-1-0",
    ):
        assert part in text


def test_an_out_of_memory_kill_is_called_so(launch: Launch) -> None:
    end = {0: End(code=137, reason="OOMKilled"), 1: End(code=1, lines=[said("failed", 1.0, problem="NCCL error")])}
    launch.server.plans = [Plan(ends=end)]
    assert launch.run() == 1
    assert "Rank 0" in launch.problem() and "OOMKilled (exit code 137)" in launch.problem()
    assert len(launch.server.created) == 2, "one restart is in this budget"


LOST = [
    {0: End(code=1, lines=[said("failed", 1.0, problem="NCCL error")]), 1: End(code=137, pod_reason="Evicted")},
    {0: End(code=137, pod_reason="Evicted"), 1: End(code=1, lines=[said("failed", 1.0, problem="NCCL error")])},
    {0: End(code=143, is_disrupted=True)},
    {1: End(is_node_lost=True)},
    {0: End(code=137)},
]


@pytest.mark.parametrize("ends", LOST)
def test_what_the_cluster_takes_away_is_not_on_the_codes_budget(launch: Launch, ends: dict[int, End]) -> None:
    launch.server.plans = [Plan(ends=ends)] * 3 + [Plan()]
    assert launch.run(limits=Limits(code_restarts=0, infrastructure_restarts=3)) == 0
    assert len(launch.server.created) == 4 and launch.server.most_at_once == 1


def test_a_lost_node_is_noticed_before_anybody_cleans_up(launch: Launch) -> None:
    launch.server.plans = [Plan(ends={1: End(is_node_lost=True)}), Plan()]
    assert launch.run() == 0
    ended_at = launch.out.read_json("logs/1/end.json")["ended_at"]
    assert ended_at - START < 60 + 20 + LIMITS.grace_s, "Volcano's own policy waits for two minutes"


def test_infrastructure_has_a_budget_too(launch: Launch) -> None:
    launch.server.plans = [Plan(ends={0: End(code=137, pod_reason="Evicted")})]
    assert launch.run() == 1
    assert len(launch.server.created) == 1 + LIMITS.infrastructure_restarts
    assert "attempt 4 of 4 that ended so (lost)" in launch.problem()


def test_preemption_is_on_no_budget(launch: Launch) -> None:
    launch.server.plans = [Plan(ends=preempted())] * 10 + [Plan()]
    assert launch.run(limits=Limits(code_restarts=0, infrastructure_restarts=0)) == 0
    assert len(launch.server.created) == 11


def test_bad_input_ends_at_once_with_its_own_exit_code(launch: Launch) -> None:
    line = said("bad_input", 1.0, problem="--width=97 is no multiple of --num_heads=4")
    launch.server.plans = [Plan(ends={0: End(code=1, lines=[line]), 1: End(code=1)})]
    assert launch.run() == 2
    assert "--width=97" in launch.problem() and len(launch.server.created) == 1
    assert launch.run() == 2, "a retried step knows it without another job"
    assert len(launch.server.created) == 1


def test_the_budget_is_the_runs_and_not_the_launchers(launch: Launch) -> None:
    launch.server.plans = [Plan(ends=crash())]
    assert launch.run() == 1
    assert launch.run() == 1
    assert len(launch.server.created) == 2
    another = job()
    another["metadata"]["name"] = "run8-pretrain-clip-1a2b"
    assert launch.run(the_job=another) == 1
    assert len(launch.server.created) == 4, "another run has budgets of its own"


def test_fault_58_a_missing_secret_is_found_before_the_job_is_made(launch: Launch) -> None:
    launch.server.add("ConfigMap", "settings", data={"there": "1"})
    key = {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "absent"}}}
    source = {"secretRef": {"name": "bucket"}}
    containers = [{"name": "stage", "image": "i", "env": [key], "envFrom": [source]}]
    with pytest.raises(BadInput) as found:
        launch.run(the_job=job(containers=containers))
    assert [problem.split(":")[0] for problem in found.value.problems] == [
        "The ConfigMap 'settings' lacks the key absent",
        "The Secret 'bucket' that the node pool names is not in namespace runs",
    ]
    assert launch.server.created == []


def test_fault_58_secrets_that_may_not_be_read_are_left_to_the_pods(launch: Launch) -> None:
    launch.server.forbidden = {("get", "Secret")}
    launch.server.plans = [Plan(waiting=("CreateContainerConfigError", 'secret "bucket" not found'))]
    containers = [{"name": "stage", "image": "i", "envFrom": [{"secretRef": {"name": "bucket"}}]}]
    assert launch.run(the_job=job(containers=containers)) == 1
    assert 'secret "bucket" not found' in launch.problem() and launch.is_empty()


def test_fault_59_the_queue_is_waited_for_with_its_reason(launch: Launch) -> None:
    launch.server.plans = [Plan(queue_s=3000, unschedulable="0/9 nodes: 9 Insufficient nvidia.com/gpu.")]
    status = {"hard": {"requests.nvidia.com/gpu": "16"}, "used": {"requests.nvidia.com/gpu": "16"}}
    launch.server.add("ResourceQuota", "team", status=status)
    assert launch.run() == 0
    waits = launch.events("is_queued")
    assert "9 Insufficient nvidia.com/gpu" in waits[-1]["reason"]
    assert waits[-1]["quota"] == ["quota team: requests.nvidia.com/gpu 16 of 16 used"]
    assert len(waits) < 10, "said when it changes and every ten minutes"


def test_fault_59_the_queue_has_a_deadline_of_its_own(launch: Launch) -> None:
    launch.server.plans = [Plan(queue_s=1e6, unschedulable="0/9 nodes: 9 Insufficient nvidia.com/gpu.")]
    assert launch.run() == 1
    assert "waited in the queue for 3600 s" in launch.problem() and "9 Insufficient" in launch.problem()
    assert launch.is_empty() and START + 3600 < launch.server.now < START + 3700
    assert len(launch.server.created) == 1


def test_fault_59_a_gang_that_no_node_may_take_fails_within_minutes(launch: Launch) -> None:
    message = "0/9 nodes are unavailable: 9 node(s) didn't match Pod's node affinity/selector."
    launch.server.plans = [Plan(queue_s=1e6, unschedulable=message)]
    assert launch.run() == 1
    assert "didn't match" in launch.problem() and launch.server.now < START + 700 and launch.is_empty()


def test_fault_59_a_quota_on_jobs_is_waited_for(launch: Launch) -> None:
    launch.server.refusal = (403, "exceeded quota: team, requested: count/jobs.batch.volcano.sh=1")

    def freed() -> bool:
        if launch.server.now > START + 300:
            launch.server.refusal = None
        return False

    assert launch.run(is_stopping=freed) == 0
    assert "exceeded quota" in launch.events("waits_for_quota")[0]["reason"]


def test_a_refused_job_is_bad_input(launch: Launch) -> None:
    launch.server.refusal = (403, 'admission webhook "validatejob.volcano.sh" denied: unable to find queue `gpus`')
    with pytest.raises(BadInput, match="unable to find queue `gpus`"):
        launch.run()


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName"])
def test_fault_60_an_image_that_cannot_be_pulled_fails_within_three_minutes(launch: Launch, reason: str) -> None:
    launch.server.plans = [Plan(waiting=(reason, "manifest unknown"))]
    assert launch.run() == 1
    assert f"{reason}: manifest unknown" in launch.problem()
    assert launch.is_empty() and launch.server.now < START + 6 + 180


def test_an_image_that_takes_long_is_waited_for(launch: Launch) -> None:
    launch.server.plans = [Plan(pull_s=1200)]
    assert launch.run() == 0


def test_a_gang_that_was_stuck_is_tried_again_by_a_retried_step(launch: Launch) -> None:
    launch.server.plans = [Plan(waiting=("ImagePullBackOff", "registry is down")), Plan()]
    assert launch.run() == 1
    assert launch.run() == 0


def test_the_run_has_a_deadline_over_all_attempts(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=500, ends=preempted())]
    assert launch.run(limits=Limits(run_timeout_s=720)) == 1
    assert len(launch.server.created) == 2 and START + 720 < launch.server.now < START + 900
    assert "more than the 720 s" in launch.problem() and launch.is_empty()


def test_fault_61_an_api_server_that_restarts_is_waited_for(launch: Launch) -> None:
    launch.server.fault = lambda call: "503" if START + 30 < launch.server.now < START + 500 else ""
    assert launch.run() == 0
    assert launch.server.created == [NAME]


def test_fault_61_one_that_stays_away_leaves_the_gang_to_the_retried_step(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=2000)]
    launch.server.fault = lambda call: "reset" if START + 30 < launch.server.now < START + 1500 else ""
    with pytest.raises(StageFailure, match=r"did not answer GET .* for 900 s"):
        launch.run()
    launch.server.fault = lambda call: ""
    assert launch.run() == 0
    assert launch.server.created == [NAME]


def test_a_gang_that_somebody_deletes_is_made_again_on_infrastructures_budget(launch: Launch) -> None:
    launch.server.later(30, lambda: launch.server.begin_delete(launch.server.of("Job")[0], "Foreground"))
    assert launch.run() == 0
    assert launch.server.created == [NAME, NAME]
    assert launch.events("attempt_ended")[0]["ending"] == "lost"


def test_an_aborted_job_is_not_made_again(launch: Launch) -> None:
    launch.server.plans = [Plan(run_s=5000)]
    launch.server.later(30, lambda: launch.server._phase(launch.server.of("Job")[0]["metadata"]["uid"], "Aborted"))
    assert launch.run() == 1
    assert "aborted from outside" in launch.problem() and len(launch.server.created) == 1


def test_logs_that_cannot_be_kept_do_not_stop_a_training(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StageFailure("the bucket is away")

    monkeypatch.setattr("components.launch.rank_logs.RankLogs.keep", refused)
    assert launch.run() == 0
    assert launch.events("logs_not_kept")
