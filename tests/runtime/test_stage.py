"""The frame around every stage, seen through build_shards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.build_shards.params import Params
from components.pretrain.params import Params as Pretrain
from components.runtime.errors import BadInput
from components.runtime.logs import Log
from components.runtime.manifest import read_manifest
from components.runtime.stage import Stage, run_stage
from components.runtime.storage import open_folder

ROOT = Path(__file__).parents[2]
SMALL = ["--purpose=pretrain", "--num_samples=24", "--image_size_px=32", "--min_shards=2", "--num_workers=1"]


@pytest.fixture(autouse=True)
def log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))
    return tmp_path / "log.jsonl"


def events(log_file: Path) -> list[dict]:
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def test_a_finished_stage_is_not_run_again(tmp_path: Path, log_file: Path) -> None:
    argv = [f"--out_uri={tmp_path / 'out'}", *SMALL]
    assert run_stage(Params, argv) == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert run_stage(Params, argv) == 0
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert [e["event"] for e in events(log_file)] == ["started", "done", "already_done"]


def test_a_result_of_other_parameters_is_refused_with_the_difference(tmp_path: Path, log_file: Path) -> None:
    assert run_stage(Params, [f"--out_uri={tmp_path / 'out'}", *SMALL]) == 0
    assert run_stage(Params, [f"--out_uri={tmp_path / 'out'}", *SMALL, "--seed=1"]) == 2
    assert "seed is 0 there and 1 here" in events(log_file)[-1]["problem"]


def test_the_manifest_names_every_file_with_its_sha256(tmp_path: Path) -> None:
    assert run_stage(Params, [f"--out_uri={tmp_path / 'out'}", *SMALL]) == 0
    folder = open_folder(str(tmp_path / "out"))
    manifest = read_manifest(folder)
    assert manifest is not None
    assert set(folder.names()) == {*manifest.files, "manifest.json"}
    assert manifest.counts["samples"] == 24
    assert sum(shard["samples"] for shard in manifest.summary["shards"]) == 24


def test_equal_parameters_give_an_equal_digest_wherever_and_with_whatever_workers(tmp_path: Path) -> None:
    for name, num_workers in (("a", 1), ("b", 3)):
        argv = [f"--out_uri={tmp_path / name}", "--purpose=pretrain", "--num_samples=100", "--image_size_px=32"]
        assert run_stage(Params, [*argv, f"--num_workers={num_workers}"]) == 0
    a, b = (read_manifest(open_folder(str(tmp_path / name))) for name in "ab")
    assert a is not None and b is not None
    assert a.digest == b.digest


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path, log_file: Path) -> None:
    argv = [f"--out_uri={tmp_path / 'out'}", *SMALL]
    assert run_stage(Params, argv) == 0
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace('"samples": 24', '"samples": 25'))
    assert run_stage(Params, argv) == 2
    assert "was changed by hand" in events(log_file)[-1]["problem"]


def test_an_input_without_a_manifest_is_refused(tmp_path: Path, log_file: Path) -> None:
    from components.evaluate.params import Params as Evaluate

    assert run_stage(Evaluate, [f"--out_uri={tmp_path}/out", f"--features={tmp_path}/none"]) == 2
    assert "holds no manifest.json" in events(log_file)[-1]["problem"]


def test_kfp_hands_on_where_the_result_lies(tmp_path: Path) -> None:
    artifact = {
        "name": "shards",
        "type": {"schemaTitle": "system.Dataset"},
        "uri": str(tmp_path / "kfp" / "shards"),
    }
    executor_input = {
        "outputs": {
            "artifacts": {"shards": {"artifacts": [artifact]}},
            "outputFile": str(tmp_path / "kfp" / "executor_output.json"),
        }
    }
    argv = [f"--out_uri={tmp_path / 'out'}", *SMALL, f"--executor_input={json.dumps(executor_input)}"]
    assert run_stage(Params, argv) == 0
    written = json.loads((tmp_path / "kfp" / "executor_output.json").read_text())
    (found,) = written["artifacts"]["shards"]["artifacts"]
    assert found["metadata"]["folder"] == str(tmp_path / "out")

    digests = []
    for address in (tmp_path / "out", tmp_path / "out" / "manifest.json", tmp_path / "kfp" / "shards"):
        stage = Stage(Pretrain(out_uri=str(tmp_path), arm="clip", shards=str(address)), Log("test"))
        digests.append(stage.inputs["shards"].digest)
    assert len(set(digests)) == 1

    pointer = tmp_path / "kfp" / "shards"
    pointer.write_text(pointer.read_text().replace(digests[0], "0" * 64))
    with pytest.raises(BadInput, match=r"holds another result .* than the pipeline was given"):
        Stage(Pretrain(out_uri=str(tmp_path), arm="clip", shards=str(pointer)), Log("test"))


def test_a_stage_that_is_told_to_stop_exits_with_3_and_finishes_when_run_again(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "components.build_shards", f"--out_uri={tmp_path / 'out'}"]
    argv += ["--purpose=pretrain", "--num_samples=1500", "--image_size_px=96"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CETERIS_LOG_FILE": str(tmp_path / "child.jsonl")}
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as child:
        while not (tmp_path / "child.jsonl").exists() or "started" not in (tmp_path / "child.jsonl").read_text():
            time.sleep(0.05)
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 3
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert subprocess.run(argv, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0
