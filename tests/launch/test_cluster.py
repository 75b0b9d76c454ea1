"""Calls to an API server that is busy, forgets, drops connections, or is restarted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.launch import cluster as cluster_module
from components.launch.cluster import Forbidden
from components.runtime.errors import BadInput, StageFailure
from tests.launch.api_server import api_server
from tests.launch.launchers import NAME, Launch, job
from tests.launch.simulated_cluster import START


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with api_server() as server:
        yield Launch(server, tmp_path / "out")


def once(fault: str, method: str = "", times: int = 1) -> object:
    """Returns a fault for the first calls of a method."""
    left = [times]

    def draw(call: object) -> str:
        if left[0] and (not method or call.method == method):  # type: ignore[attr-defined]
            left[0] -= 1
            return fault
        return ""

    return draw


@pytest.mark.parametrize("fault", ["429", "500", "502", "503", "504", "reset", "lose", "half"])
def test_fault_61_a_create_that_fails_before_or_after_it_took_effect_makes_one_job(launch: Launch, fault: str) -> None:
    launch.server.fault = once(fault, "POST", 3)  # type: ignore[assignment]
    assert launch.cluster().create(job()) == ""
    assert launch.server.created == [NAME]


def test_fault_61_a_409_on_create_is_the_job_being_there(launch: Launch) -> None:
    cluster = launch.cluster()
    assert cluster.create(job()) == cluster.create(job()) == ""
    assert launch.server.created == [NAME]


@pytest.mark.parametrize("fault", ["429", "503", "reset", "lose", "half"])
def test_fault_61_reads_lists_and_deletions_are_repeated(launch: Launch, fault: str) -> None:
    cluster = launch.cluster()
    cluster.create(job())
    launch.server.fault = once(fault, times=3)  # type: ignore[assignment]
    made = cluster.read("Job", NAME)
    assert made is not None
    launch.server.fault = once(fault, times=3)  # type: ignore[assignment]
    assert len(cluster.list("Job")) == 1
    launch.server.fault = once(fault, times=3)  # type: ignore[assignment]
    cluster.delete(made)
    launch.server.fault = lambda call: ""
    launch.server.sleep(30)
    assert cluster.read("Job", NAME) is None


def test_fault_61_a_429_is_obeyed(launch: Launch) -> None:
    launch.server.fault = once("429")  # type: ignore[assignment]
    launch.cluster().read("Job", NAME)
    assert launch.server.now - START >= 1, "Retry-After says one second"


def test_fault_61_a_watch_that_is_too_old_or_dropped_ends_at_once(launch: Launch) -> None:
    cluster = launch.cluster()
    cluster.create(job())
    made = cluster.read("Job", NAME)
    assert made is not None
    for fault, oldest in (("", 10**6), ("reset", 0), ("half", 0), ("500", 0), ("410", 0)):
        launch.server.oldest_version, launch.server.fault = oldest, once(fault)  # type: ignore[assignment]
        before = launch.server.now
        cluster.wait(made, 600)
        assert launch.server.now - before <= 600
        assert launch.server.now > before, "never a busy loop"


def test_a_watch_ends_at_the_first_change(launch: Launch) -> None:
    cluster = launch.cluster()
    cluster.create(job())
    cluster.wait(cluster.read("Job", NAME), 600)
    assert launch.server.now - START < 30, "the pods run after ten seconds"


def test_fault_61_a_list_that_expires_between_two_pages_is_read_anew(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "PAGE", 2)
    for number in range(5):
        launch.server.add("Secret", f"s{number}")
    expired = []

    def expire(call: object) -> str:
        if "continue" in call.query and not expired:  # type: ignore[attr-defined]
            expired.append(call)
            return "410"
        return ""

    launch.server.fault = expire
    names = [thing["metadata"]["name"] for thing in launch.cluster().list("Secret")]
    assert names == ["s0", "s1", "s2", "s3", "s4"] and expired


def test_fault_61_patience_has_an_end(launch: Launch) -> None:
    launch.server.fault = lambda call: "503"
    with pytest.raises(StageFailure, match="for 900 s"):
        launch.cluster().read("Job", NAME)
    assert 900 <= launch.server.now - START < 960
    assert len(launch.server.calls) < 150, "the pauses grow"


def test_another_job_of_the_same_name_is_not_deleted(launch: Launch) -> None:
    cluster = launch.cluster()
    cluster.create(job())
    former = cluster.read("Job", NAME)
    assert former is not None
    cluster.delete(former | {"metadata": former["metadata"] | {"uid": "another"}})
    found = cluster.read("Job", NAME)
    assert found is not None and "deletionTimestamp" not in found["metadata"]


def test_a_missing_right_is_named(launch: Launch) -> None:
    launch.server.forbidden = {("list", "Pod")}
    with pytest.raises(Forbidden, match='cannot list resource "pods"'):
        launch.cluster().list("Pod")
    assert not launch.cluster().may("list", "Pod")
    assert launch.cluster().may("create", "Job")


def test_an_invalid_name_is_refused_in_a_sentence(launch: Launch) -> None:
    bad = job()
    bad["metadata"]["name"] = "Run_7"
    with pytest.raises(BadInput, match="The cluster refuses the job Run_7 in namespace runs"):
        launch.cluster().create(bad)


def test_a_log_goes_on_where_it_was_read_to(launch: Launch) -> None:
    cluster = launch.cluster()
    cluster.create(job())
    launch.server.sleep(5)
    pod = cluster.list("Pod")[0]
    assert cluster.log(pod) == b"", "it hasn't started"
    launch.server.sleep(20)
    pod = cluster.list("Pod")[0]
    first = cluster.log(pod).decode()
    assert first.endswith(" rank 0 begins\n")
    launch.server.sleep(5)
    launch.server.kubelet_says(pod["metadata"]["name"], "more")
    later = cluster.log(pod, since=(first.split()[0][:18] + "9Z")).decode()
    assert "more" in later
