"""Studies are started and told of over a real connection to a KFP stand-in, also by KFP's own command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_PREEMPTED
from pipelines import patience
from pipelines.__main__ import main
from tests.pipelines.kfp_server import API, Fault, KfpServer, kfp_server

DIGEST = "sha256:" + 64 * "0"
IMAGES = [f"--image={name}=registry/{name}@{DIGEST}" for name in ("cpu", "train", "vlm", "launcher")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpServer]:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with kfp_server() as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.url)
        yield running


def submitted(*argv: str, out: str = "s3://bucket/run-1") -> int:
    return main(["submit", "--preset", "smoke", "--out", out, *IMAGES, *argv])


def only_run(server: KfpServer) -> dict:
    (run,) = server.runs.values()
    return run


def test_a_study_is_submitted_with_its_inputs(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert submitted("--run", "mine", "--experiment", "first", "--seed", "7", "--service-account", "steps") == EXIT_DONE
    run, said = only_run(server), capsys.readouterr()
    assert run["display_name"] == "mine" and run["service_account"] == "steps"
    assert server.experiments[run["experiment_id"]]["display_name"] == "first"
    given = run["runtime_config"]["parameters"]
    assert given == {"out_uri": "s3://bucket/run-1", "source_uri": "synthetic", "seed": 7, "compare_uri": ""}
    assert run["run_id"] in said.out and f"status {run['run_id']}" in said.out and not said.err


def test_an_image_by_tag_is_warned_of(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert submitted("--image", "train=registry/train:1") == EXIT_DONE
    assert "train=registry/train:1: not named by digest" in capsys.readouterr().err


def test_no_cache_holds_for_every_task(server: KfpServer) -> None:
    def cached() -> set[str]:
        document = list(server.runs.values())[-1]["pipeline_spec"]
        tasks = document["pipeline_spec"]["root"]["dag"]["tasks"]
        return {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}

    assert submitted() == EXIT_DONE and cached()
    assert submitted("--no-cache", out="s3://bucket/run-2") == EXIT_DONE and not cached()


def test_two_runs_never_write_to_one_folder(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert submitted("--run", "first") == EXIT_DONE
    first = only_run(server)
    capsys.readouterr()
    assert submitted("--run", "second", out="s3://bucket/run-1/") == EXIT_BAD_INPUT
    sentence = capsys.readouterr().err
    assert f"is being written by the run first ({first['run_id']})" in sentence and len(server.runs) == 1
    server.end(first["run_id"], "FAILED", {})
    assert submitted("--run", "second") == EXIT_DONE and len(server.runs) == 2


def test_a_run_on_the_third_page_is_seen(server: KfpServer) -> None:
    assert submitted() == EXIT_DONE
    oldest = only_run(server)
    for number in range(230):
        later = oldest | {
            "run_id": f"later-{number}",
            "runtime_config": {},
            "created_at": f"2099-01-01T00:00:{number % 60:02}Z",
        }
        server.runs[later["run_id"]] = later
    assert submitted() == EXIT_BAD_INPUT


@pytest.mark.parametrize("status", [500, 503, 429, 0])
def test_a_read_that_fails_in_passing_is_repeated(server: KfpServer, status: int) -> None:
    server.faults.append(Fault("GET", f"{API}/(runs|experiments)$", status, times=2))
    assert submitted() == EXIT_DONE and len(server.runs) == 1


def test_a_start_that_fails_is_not_repeated(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults.append(Fault("POST", f"{API}/runs$", 503, times=9))
    assert submitted() == EXIT_FAILED
    assert server.calls.count(("POST", f"{API}/runs")) == 1
    assert "refused to start the run smoke (503" in capsys.readouterr().err


def test_a_server_that_is_not_there_gets_one_sentence(
    server: KfpServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["status", "--host", "http://127.0.0.1:9"]) == EXIT_FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "did not answer" in line and "port-forward" in line and "0x" not in line
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert main(["status"]) == EXIT_BAD_INPUT
    assert "give --host" in capsys.readouterr().err


def test_all_that_is_wrong_is_said_before_anything_is_sent(
    server: KfpServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pools.yaml").write_text("pools: {gpu: {cpus: 8, memoryGib: 32, gpu: 1}}")
    argv = ["--seed", "x", "--source", "/pictures", "--image", "trian=y", "--pools", str(tmp_path / "pools.yaml")]
    assert (
        main(["submit", "--preset", "smok", "--out", "runs", *argv, "--set", "pretrain.num_heads=5"]) == EXIT_BAD_INPUT
    )
    said = capsys.readouterr().err
    for word in (
        "--seed=x",
        "--out=runs",
        "--source=/pictures",
        "--image train",
        "pools.gpu.gpus",
        "preset=smoke",
        "num_heads",
    ):
        assert word in said, (word, said)
    assert server.calls == []


def test_status_lists_the_runs_and_tells_of_one(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == EXIT_DONE and "No runs." in capsys.readouterr().out
    assert submitted("--run", "mine") == EXIT_DONE
    run_id = only_run(server)["run_id"]
    tasks = {"root": "RUNNING", "pretrain-driver": "SUCCEEDED", "pretrain": "FAILED", "pretrain-2": "RUNNING"}
    server.end(run_id, "RUNNING", tasks)
    capsys.readouterr()
    assert main(["status"]) == EXIT_DONE
    assert f"mine  {run_id}  RUNNING" in capsys.readouterr().out
    assert main(["status", "mine"]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "s3://bucket/run-1" in shown and "pretrain clip  FAILED" in shown and "pretrain dino  RUNNING" in shown
    assert "driver" not in shown and "root" not in shown


@pytest.mark.parametrize(
    ("state", "code"), [("SUCCEEDED", EXIT_DONE), ("FAILED", EXIT_FAILED), ("CANCELED", EXIT_PREEMPTED)]
)
def test_the_exit_code_tells_how_a_run_ended(server: KfpServer, state: str, code: int) -> None:
    assert submitted() == EXIT_DONE
    run_id = only_run(server)["run_id"]
    server.end(run_id, state, {})
    assert main(["status", run_id]) == code


def test_a_run_is_named_by_one_name_only(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert submitted() == EXIT_DONE and submitted(out="s3://bucket/run-2") == EXIT_DONE
    capsys.readouterr()
    assert main(["status", "smoke"]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "2 runs are called smoke" in said and all(run_id in said for run_id in server.runs)
    assert main(["status", "smok"]) == EXIT_BAD_INPUT
    assert "The run smok is not at" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["create", "submit"])
def test_kfps_own_command_starts_a_compiled_package(server: KfpServer, tmp_path: Path, command: str) -> None:
    package = tmp_path / "study.yaml"
    assert main(["compile", "--preset", "smoke", "--out", str(package), *IMAGES]) == EXIT_DONE
    inputs = ["out_uri=s3://bucket/x", "seed=3", "learning_rate=0.001", "language_model=tiny"]
    words = ["--endpoint", server.url, "--output", "json", "run", command, "-e", "ours", "-f", str(package), *inputs]
    program = [sys.executable, "-c", "from kfp.cli.__main__ import main; main()"]
    ended = subprocess.run([*program, *words], env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    run = only_run(server)
    assert run["runtime_config"]["parameters"] == {
        "out_uri": "s3://bucket/x",
        "seed": 3,
        "learning_rate": 0.001,
        "language_model": "tiny",
    }
    assert server.experiments[run["experiment_id"]]["display_name"] == "ours"
    assert run["run_id"] in json.dumps(ended.stdout)
    assert ("deprecated" in ended.stderr) == (command == "submit")


def test_a_wrong_input_is_refused_by_the_server(server: KfpServer, tmp_path: Path) -> None:
    package = tmp_path / "study.yaml"
    assert main(["compile", "--preset", "smoke", "--out", str(package)]) == EXIT_DONE
    program = [sys.executable, "-c", "from kfp.cli.__main__ import main; main()"]
    words = [
        "--endpoint",
        server.url,
        "run",
        "create",
        "-e",
        "ours",
        "-f",
        str(package),
        "out_uri=s3://b/x",
        "seed=many",
    ]
    ended = subprocess.run([*program, *words], capture_output=True, text=True)
    assert ended.returncode != 0 and not server.runs and "NUMBER_INTEGER" in ended.stderr
