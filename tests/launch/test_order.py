"""The launcher's command line: what it takes, what it refuses, and what becomes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.launch.__main__ import launch, main
from components.launch.order import KUBERNETES, Shape, digest, read_order, read_shape
from components.runtime.errors import BadInput
from components.runtime.logs import Log
from components.runtime.manifest import Manifest, write_manifest
from components.runtime.storage import LocalFolder
from tests.launch.gangs import IMAGE, pool


def argument(**changed: Any) -> str:
    given = {"num_nodes": 2, "image": IMAGE, "pool": {"name": "h100", "cpus": 8, "memoryGib": 64}} | changed
    return "--gang=" + json.dumps({name: value for name, value in given.items() if value is not None})


def refusal(*words: str) -> list[str]:
    with pytest.raises(BadInput) as refused:
        read_order(words)
    return refused.value.problems


def test_a_shape_survives_its_argument() -> None:
    shape = Shape(arm="clip", image=IMAGE, num_nodes=4, pool=pool("h100-rdma"), folders=("/runs/a",))
    assert read_shape(shape.argument().removeprefix("--gang=")) == shape


def test_what_is_left_out_has_a_default() -> None:
    order = read_order(["--stage=preflight", "--out_uri=s3://b/p", argument()])
    assert (order.shape.arm, order.shape.scheduler, order.shape.folders) == ("", KUBERNETES, ())
    assert order.values.out_uri == "s3://b/p"
    assert order.kfp == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--stage=pretain"], "did you mean --stage=pretrain?"),
        (["--stage=report"], "--stage=report is unknown"),
        ([], "--gang= is no JSON object"),
        (["--gang=3"], "--gang=3 is no JSON object"),
        ([argument(num_nodes="2")], '--gang num_nodes="2" is not a whole number'),
        ([argument(num_nodes=True)], "--gang num_nodes=true is not a whole number"),
        ([argument(image=None)], "--gang image=null is not an image's name"),
        ([argument(scheduler="slurm")], "is not one of kubernetes, local_cwd, local_docker"),
        ([argument(folders="/a")], "is not a list of folders"),
        ([argument(num_node=2)], "did you mean --gang num_nodes?"),
        ([argument(pool=None)], "--gang pool is no entry of the pools' file"),
        ([argument(pool={"name": "h100", "cpus": 8})], "--gang pools.h100.memoryGib is missing"),
        (["--stage=pretrain", argument(), "--stage=pretrain"], "--stage is given twice"),
        (["--stage=preflight", "--out_uri=s3://b/p", "--min_shm=1", argument()], "did you mean --min_shm_gib?"),
    ],
)
def test_what_is_wrong_gets_a_sentence(words: list[str], sentence: str) -> None:
    assert any(sentence in problem for problem in refusal(*words)), refusal(*words)


def test_all_that_is_wrong_comes_at_once() -> None:
    assert len(refusal("--stage=pretrain", "--arm=clap", argument(num_nodes=0.5, image=3))) >= 4


def test_the_digest_tells_addresses_apart() -> None:
    one, same, other = (
        read_order(["--stage=preflight", f"--out_uri=s3://b/{name}", argument()]).values for name in ("a", "a", "c")
    )
    assert digest(one) == digest(same) != digest(other)


def test_a_missing_input_is_found_before_anything_is_launched(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--stage=pretrain", f"--out_uri={tmp_path}/out", "--arm=clip", f"--shards={tmp_path}/none", argument()]
    assert main(words) == 2
    assert "holds no manifest.json" in capsys.readouterr().err


def test_without_a_run_nothing_is_launched(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CETERIS_RUN", raising=False)
    assert main(["--stage=preflight", f"--out_uri={tmp_path}/out", argument(scheduler="local_cwd")]) == 2
    assert "CETERIS_RUN is not set" in capsys.readouterr().err


def test_a_finished_stage_is_handed_on_without_a_cluster(tmp_path: Path) -> None:
    order = read_order(["--stage=preflight", f"--out_uri={tmp_path}/out", argument()])
    made = Manifest(
        kind="Preflight",
        stage="preflight",
        params=order.values.knobs(),
        inputs={},
        files={},
        counts={},
        summary={},
        cost={},
        code={},
    )
    write_manifest(LocalFolder(tmp_path / "out"), made)
    pointer = tmp_path / "kfp" / "found"
    artifact = {"name": "found", "type": {"schemaTitle": "system.Artifact"}, "uri": str(pointer)}
    kfp = {
        "outputs": {
            "artifacts": {"found": {"artifacts": [artifact]}},
            "outputFile": str(tmp_path / "kfp" / "executor_output.json"),
        }
    }
    words = ["--stage=preflight", f"--out_uri={tmp_path}/out", argument(), f"--executor_input={json.dumps(kfp)}"]
    assert launch(read_order(words), Log("launch")) == 0
    assert json.loads(pointer.read_text())["folder"] == LocalFolder(tmp_path / "out").uri


def test_a_finished_stage_of_other_parameters_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--stage=preflight", f"--out_uri={tmp_path}/out", argument()]
    made = Manifest(
        kind="Preflight", stage="preflight", params={}, inputs={}, files={}, counts={}, summary={}, cost={}, code={}
    )
    write_manifest(LocalFolder(tmp_path / "out"), made)
    assert main(words) == 2
    assert "holds another result" in capsys.readouterr().err


def test_the_help_names_stages_variables_and_exit_codes(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for word in ("pretrain", "--gang=JSON", "CETERIS_RUN", "local_docker", "2 bad input"):
        assert word in said
    assert max(map(len, said.splitlines())) <= 120
