"""results.json and the outcomes beside it, through the stage's own command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.numpy

from components.core.evaluation import seeds
from components.core.evaluation.intervals import wilson
from components.report import results as results_module
from components.report.params import Params
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from components.runtime.stage import run_stage
from tests.report.conftest import BENCHMARK, SHARDS

PROBE = {"clip": {"object": 0.6, "word": [0.7, 0.75, 0.65]}, "dino": {"object": 0.6, "word": [0.4, 0.35, 0.45]}}
ONE = {"clip": {"object": 0.6, "word": 0.7, "style": 0.4}, "dino": {"object": 0.6, "word": 0.4, "style": 0.8}}
VMC = {"clip": {"general": 0.5, "ocr": 0.6}, "dino": {"general": 0.5, "ocr": 0.35}}
WriteStudy = Callable[..., list[str]]


def _report(argv: list[str], out: Path, *more: str) -> dict[str, Any]:
    assert run_stage(Params, [*argv, f"--out_uri={out}", *more]) == EXIT_DONE
    return json.loads((out / "results.json").read_text())


def _check(results: dict[str, Any]) -> None:
    schema = json.loads((Path(results_module.__file__).parent / "results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(results)


def test_one_run_has_wilsons_interval_and_says_that_seeds_are_not_covered(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    results = _report(write_study(ONE, VMC), tmp_path / "out")
    _check(results)
    low, high = wilson(280, 400)
    word = results["arms"]["clip"]["probe"]["word"]
    expected = {"mean": 0.7, "sd": 0.0, "low": round(low, 6), "high": round(high, 6), "n": 400, "chance": 0.1}
    assert word == expected | {"per_run": [0.7]}
    assert results["arms"]["dino"]["vmc"]["ocr"]["mean"] == 0.35 and "zero_shot" in results["arms"]["dino"]
    found = results["differences"]["against"]["dino"]["probe"]["word"]
    assert found["difference"] == pytest.approx(0.3) and found["low"] > 0.2 and found["sign"] == 1
    assert found["covers_seeds"] is False and results["differences"]["first"] == "clip"
    assert "how far another seed alone would move the numbers is not known" in results["verdict"][-1]


def test_several_runs_have_their_mean_spread_and_seeds(write_study: WriteStudy, tmp_path: Path) -> None:
    results = _report(write_study(PROBE, VMC, num_replicates=3, first_replicate=2), tmp_path / "out")
    _check(results)
    assert results["replicates"] == [2, 3, 4] and results["arms"]["clip"]["seeds"] == [9, 10, 11]
    word = results["arms"]["clip"]["probe"]["word"]
    assert word["per_run"] == [0.7, 0.75, 0.65] and word["mean"] == 0.7 and word["sd"] == 0.05
    found = results["differences"]["against"]["dino"]["probe"]["word"]
    assert found["per_run"] == [0.3, 0.4, 0.2] and found["num_runs"] == 3 and found["covers_seeds"] is True
    shots = results["arms"]["dino"]["few_shot"]["word"]["1"]
    assert shots == {"mean": 0.2, "sd": 0.025, "per_run": [0.2, 0.175, 0.225]}
    assert results["arms"]["clip"]["cost"]["train_flops_per_run"] == 192e8


def test_the_outcomes_give_every_number_again(write_study: WriteStudy, tmp_path: Path) -> None:
    results = _report(write_study(PROBE, VMC, num_replicates=3, num_left_out=5), tmp_path / "out")
    outcomes = safetensors.numpy.load_file(tmp_path / "out" / "outcomes.safetensors")
    clip, dino = (outcomes[f"{arm}/probe/word"] for arm in ("clip", "dino"))
    assert clip.shape == (3, 395) and clip.dtype == np.uint8 and outcomes["ids/probe/word"].tolist()[0] == 5
    assert outcomes["ids/vmc/ocr"].tolist() == list(range(200, 400))
    again = seeds.paired_difference(clip, dino, 0.95)
    found = results["differences"]["against"]["dino"]["probe"]["word"]
    assert (found["low"], found["high"], found["p"]) == pytest.approx((again.low, again.high, again.p), abs=1e-6)
    items = results["items"]["probe"]["word"]
    assert items["data"] == SHARDS and items["n"] == 395 and items["num_left_out"] == 5
    assert results["items"]["vmc"]["ocr"]["data"] == BENCHMARK


def test_two_runs_give_the_same_results_byte_for_byte(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    moved = write_study(PROBE, VMC, name="elsewhere", reverse_inputs=True, num_replicates=3)
    for number, of in enumerate((argv, argv, moved)):
        _report(of, tmp_path / f"out{number}")
    for name in ("results.json", "outcomes.safetensors"):
        first, *others = ((tmp_path / f"out{number}" / name).read_bytes() for number in range(3))
        assert others == [first, first]
        assert str(tmp_path).encode() not in first and b"seconds" not in first


def test_the_parity_record_is_equal_and_lists_what_differs(write_study: WriteStudy, tmp_path: Path) -> None:
    parity = _report(write_study(ONE, VMC), tmp_path / "out")["parity"]
    assert parity["trunk_init"] == {"clip": "a" * 64, "dino": "a" * 64} and parity["equal"] is True
    assert parity["differs"] == [{"name": "crops", "values": {"clip": "those of clip", "dino": "those of dino"}}]


def test_replicates_may_differ_among_themselves(write_study: WriteStudy, write_schedule: Any, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    for arm in ("clip", "dino"):
        write_schedule(arm, "0" * 64, replicate=1)
    parity = _report(argv, tmp_path / "out")["parity"]
    assert parity["equal"] is True
    assert parity["schedule"]["clip"] == ",".join(["d" * 64, "0" * 64, "d" * 64])


@pytest.mark.parametrize("schedule", ["0" * 64, ""])
def test_one_replicate_with_another_or_no_hash_is_not_parity(
    write_study: WriteStudy, write_schedule: Any, tmp_path: Path, schedule: str
) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    write_schedule("dino", schedule, replicate=2)
    assert _report(argv, tmp_path / "out")["parity"]["equal"] is False


def test_predictions_that_belie_their_accuracy_are_refused(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = write_study(ONE, VMC)
    scores = tmp_path / "study" / "evaluate" / "clip" / "scores.json"
    scores.write_text(scores.read_text().replace('"accuracy": 0.7,', '"accuracy": 0.9,'))
    assert run_stage(Params, [*argv, f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert "don't give its accuracy" in capsys.readouterr().err
