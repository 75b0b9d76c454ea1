"""A pipeline runs on this machine through KFP's own engine, is resumed, stopped, and refused, as it should be."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED, BadInput
from pipelines.run_folder import opened_run
from pipelines.tracking import Forwarder

Run = Callable[..., Any]


def test_stages_run_in_order_and_read_what_the_others_wrote(miniature: Run) -> None:
    ended = miniature(num_samples=4)
    assert ended.exit_code == EXIT_DONE
    assert json.loads((ended.run / "tally" / "total.json").read_text()) == 2 * 2 * (1 + 2 + 3)
    lines = ended.screen.splitlines()
    assert [line.split(" .")[0] for line in lines] == ["[ 1/3] draw one", "[ 2/3] draw two", "[ 3/3] tally"]


def test_a_finished_run_is_done_again_at_once(miniature: Run) -> None:
    before = (miniature().run / "tally" / "manifest.json").read_bytes()
    ended = miniature()
    assert ended.exit_code == EXIT_DONE and ended.screen.count("already done") == 3
    assert (ended.run / "tally" / "manifest.json").read_bytes() == before


def test_a_refused_stage_ends_the_run_with_its_sentence(miniature: Run) -> None:
    ended = miniature(ending="refused")
    assert ended.exit_code == EXIT_BAD_INPUT
    assert ended.host.problems == ["--ending=refused is a wish: use well."]
    assert "tally" not in ended.screen


def test_a_failed_stage_ends_the_run_with_a_sentence_and_its_log(miniature: Run) -> None:
    ended = miniature(ending="badly")
    assert ended.exit_code == EXIT_FAILED
    assert ended.host.problems == ["ZeroDivisionError: nothing to divide"]
    assert "traceback" in ended.host.log.read_text()


def test_a_killed_stage_is_told_from_a_failed_one(miniature: Run) -> None:
    ended = miniature(ending="killed")
    assert ended.exit_code == EXIT_FAILED and "SIGKILL" in ended.host.problems[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_lets_the_stage_save_and_continues_later(miniature: Run, tmp_path: Path, number: int) -> None:
    log = tmp_path / "runs" / "mini" / "logs" / "draw" / "one.log"

    def stop_when_started() -> None:
        while not (log.exists() and "started" in log.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop_when_started, daemon=True).start()
    ended = miniature(ending="slowly")
    assert ended.exit_code == EXIT_PREEMPTED and "stopped after" in ended.screen
    assert (ended.run / "draw" / "one" / "saved.json").exists() and "draw two" not in ended.screen
    (ended.run / "draw" / "two").mkdir()
    (ended.run / "draw" / "two" / "saved.json").touch()
    assert miniature(ending="slowly").exit_code == EXIT_DONE


def test_a_stage_never_sees_the_settings_of_a_cluster(miniature: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    ended = miniature()
    assert ended.exit_code == EXIT_DONE and "tracking_failed" not in (ended.run / "logs" / "tally.log").read_text()


def test_two_processes_can_not_run_one_run(tmp_path: Path) -> None:
    with opened_run(tmp_path, str(tmp_path), {}) as lock:
        # a stage that outlives its runner still works in the folder
        stage = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    with pytest.raises(BadInput, match="is going on elsewhere"), opened_run(tmp_path, str(tmp_path), {}):
        pass
    stage.communicate(b"\n")
    with opened_run(tmp_path, str(tmp_path), {}):
        pass


def test_settings_of_a_run_stay_what_they_were(tmp_path: Path) -> None:
    with opened_run(tmp_path, str(tmp_path), {"seed": 0, "set": []}):
        pass
    with (
        pytest.raises(BadInput, match="seed 0 and not 1"),
        opened_run(tmp_path, str(tmp_path), {"seed": 1, "set": []}),
    ):
        pass


def test_curves_reach_mlflow_once(miniature: Run) -> None:
    run = miniature(num_samples=5).run
    for _ in range(2):
        forwarder = Forwarder(run)
        forwarder.start()
        assert forwarder.finish("FINISHED") == ""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("encoder-study").experiment_id])
    by_name = {r.info.run_name: r for r in found}
    assert by_name.keys() == {"mini", "draw/one", "draw/two", "tally"}
    assert {r.info.status for r in found} == {"FINISHED"}
    points = client.get_metric_history(by_name["draw/one"].info.run_id, "loss")
    assert [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)] == [(s, 1 / (s + 1)) for s in range(5)]


def test_mlflow_out_of_order_is_only_a_warning(miniature: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = miniature().run
    (run / "mlflow.db").mkdir()
    monkeypatch.setattr("pipelines.tracking.LAST_SEND_S", 3.0)
    forwarder = Forwarder(run)
    forwarder.start()
    assert forwarder.finish("FINISHED") != ""


def test_another_report_to_compare_with_takes_only_the_report_anew(tmp_path: Path) -> None:
    run, settings = tmp_path / "runs" / "mini", {"preset": "smoke", "compare": ""}
    with opened_run(run, str(run), settings):
        for stage in ("report", "evaluate"):
            (run / stage).mkdir()
            (run / stage / "manifest.json").write_text("{}")
    with opened_run(run, str(run), settings):
        assert (run / "report" / "manifest.json").exists()
    with opened_run(run, str(run), settings | {"compare": "elsewhere"}):
        assert not (run / "report" / "manifest.json").exists() and (run / "evaluate" / "manifest.json").exists()
    with pytest.raises(BadInput, match="started with preset smoke and not laptop"):
        opened_run(run, str(run), settings | {"preset": "laptop"}).__enter__()
