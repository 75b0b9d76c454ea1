"""Another study beside this one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from components.core.evaluation.seeds import unpaired_difference
from components.report.params import Params
from components.runtime.errors import EXIT_BAD_INPUT
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder
from tests.report.conftest import commit
from tests.report.test_results import _check, _report

HERE = {"clip": {"object": 0.6, "word": [0.7, 0.75, 0.65]}, "dino": {"object": 0.6, "word": [0.4, 0.35, 0.45]}}
THERE = {"clip": {"object": 0.6, "word": [0.3, 0.35, 0.25]}, "siglip": {"object": 0.6, "word": [0.4, 0.35, 0.45]}}
VMC = {arm: {"general": 0.5, "ocr": 0.6} for arm in ("clip", "dino", "siglip")}
WriteStudy = Callable[..., list[str]]


@pytest.fixture
def there(write_study: WriteStudy, tmp_path: Path) -> Path:
    """The folder of another study's report."""
    _report(write_study(THERE, VMC, name="there", num_replicates=3), tmp_path / "there-report", "--title=Before")
    return tmp_path / "there-report"


def test_arms_that_both_studies_have_are_compared(write_study: WriteStudy, there: Path, tmp_path: Path) -> None:
    results = _report(write_study(HERE, VMC, num_replicates=3), tmp_path / "out", f"--compare={there}")
    _check(results)
    compared = results["compared"]
    assert (compared["title"], compared["only_here"], compared["only_there"]) == ("Before", ["dino"], ["siglip"])
    assert compared["is_paired"] is True and compared["unpaired"] == [] and compared["differences"].keys() == {"clip"}
    word, object_ = (compared["differences"]["clip"]["probe"][name] for name in ("word", "object"))
    assert word["difference"] == pytest.approx(0.4) and word["sign"] == 1 and word["covers_seeds"] is True
    assert object_["difference"] == 0 and object_["sign"] == 0 and object_["per_run"] == []
    ours, theirs = (
        safetensors.numpy.load_file(folder / "outcomes.safetensors")["clip/probe/word"]
        for folder in (tmp_path / "out", there)
    )
    expected = unpaired_difference(ours, theirs, True, 0.95)
    assert (word["low"], word["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_without_another_study_there_is_nothing_to_compare(write_study: WriteStudy, tmp_path: Path) -> None:
    assert _report(write_study(HERE, VMC, num_replicates=3), tmp_path / "out")["compared"] is None


def test_items_that_only_one_study_has_are_left_out_of_the_pairs(
    write_study: WriteStudy, there: Path, tmp_path: Path
) -> None:
    argv = write_study(HERE, VMC, num_replicates=3, num_left_out=5)
    compared = _report(argv, tmp_path / "out", f"--compare={there}")["compared"]
    assert compared["is_paired"] is True and compared["differences"]["clip"]["probe"]["word"]["n"] == 395


def test_other_data_are_not_paired(write_study: WriteStudy, there: Path, tmp_path: Path) -> None:
    results = json.loads((there / "results.json").read_text())
    for name in ("object", "word"):
        results["items"]["probe"][name]["data"] = "another digest"
    (there / "results.json").write_text(json.dumps(results))
    compared = _report(write_study(HERE, VMC, num_replicates=3), tmp_path / "out", f"--compare={there}")["compared"]
    assert compared["is_paired"] is False and compared["unpaired"] == ["probe of object", "probe of word"]
    assert compared["differences"]["clip"]["probe"]["word"]["low"] > 0


def test_one_run_on_each_side_covers_items_alone(write_study: WriteStudy, tmp_path: Path) -> None:
    one = {"clip": {"word": 0.7}, "dino": {"word": 0.4}}
    argv = write_study(one, VMC)
    _report(argv, tmp_path / "first")
    compared = _report(argv, tmp_path / "second", f"--compare={tmp_path / 'first'}")["compared"]
    word = compared["differences"]["clip"]["probe"]["word"]
    assert word["num_runs"] == 1 and word["covers_seeds"] is False and word["sign"] == 0


def test_another_seed_set_of_the_same_study_shows_no_difference(write_study: WriteStudy, tmp_path: Path) -> None:
    _report(write_study(HERE, VMC, name="first", num_replicates=3), tmp_path / "first-report")
    again = {"clip": {"object": 0.6, "word": [0.68, 0.74, 0.69]}, "dino": {"object": 0.6, "word": [0.38, 0.41, 0.37]}}
    argv = write_study(again, VMC, name="second", num_replicates=3, first_replicate=3)
    compared = _report(argv, tmp_path / "out", f"--compare={tmp_path / 'first-report'}")["compared"]
    signs = [d["sign"] for arm in compared["differences"].values() for of in arm.values() for d in of.values()]
    assert set(signs) == {0} and len(signs) == 24


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("absent", "holds no manifest.json: run the stage that writes it"),
        ("another stage", "was written by evaluate: give the folder of another study's report"),
        ("old", "holds results of schema 1, this version compares 2: write that report again"),
    ],
)
def test_what_is_no_report_of_this_version_is_refused(
    change: str,
    problem: str,
    write_study: WriteStudy,
    there: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = write_study(HERE, VMC, num_replicates=3)
    if change == "another stage":
        there = tmp_path / "study" / "evaluate" / "clip"
    if change == "absent":
        there = tmp_path / "nothing"
    if change == "old":
        results: dict[str, Any] = {"schema": 1}
        (there / "results.json").write_text(json.dumps(results))
        (there / "outcomes.safetensors").unlink()
        (there / "manifest.json").unlink()
        commit(LocalFolder(there), "ReportManifest", "report", params={"title": "Before"})
    assert run_stage(Params, [*argv, f"--compare={there}", f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert problem in capsys.readouterr().err
