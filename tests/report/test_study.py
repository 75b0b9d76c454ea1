"""The study as the report reads it: encoders in order, items lined up, everything that doesn't fit refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from components.report.findings.comparisons import compare
from components.report.findings.outcomes import neighbours
from components.report.params import Params
from components.report.study import Study, read_study
from components.runtime import params
from components.runtime.errors import BadInput
from components.runtime.logs import Log
from components.runtime.stage import Stage
from components.runtime.storage import LocalFolder
from tests.report.conftest import NUM_PICTURES, write_evaluate

PROBE = {"clip": {"object": 0.6, "word": [0.7, 0.75, 0.65]}, "dino": {"object": 0.6, "word": [0.4, 0.35, 0.45]}}
VMC = {"clip": {"general": 0.5, "ocr": 0.6}, "dino": {"general": 0.5, "ocr": 0.35}}
WriteStudy = Callable[..., list[str]]


def _read(argv: list[str]) -> Study:
    return read_study(Stage(params.parse(Params, [*argv, "--out_uri=nowhere"]), Log("report")))


def test_every_run_is_kept_with_its_accuracy(write_study: WriteStudy) -> None:
    study = _read(write_study(PROBE, VMC, num_replicates=3))
    assert [arm.name for arm in study.arms] == ["clip", "dino"] and study.replicates == [0, 1, 2]
    assert study.factors == ["object", "word"] and study.groups == ["general", "ocr"]
    word = study.accuracy("clip", "probe", "word")
    assert word and word.per_run == pytest.approx([0.7, 0.75, 0.65]) and word.mean == pytest.approx(0.7)
    assert word.sd == pytest.approx(0.05) and word.n == NUM_PICTURES and word.chance == 0.1
    assert word.low < 0.65 and word.high > 0.75
    assert study.names("zero_shot") == ["object", "word"] and study.accuracy("dino", "zero_shot", "word") is None
    asked = study.accuracy("dino", "vmc_micro", "all")
    assert asked and asked.mean == pytest.approx(0.425) and asked.chance == 0.25


def test_differences_are_over_runs_of_the_same_seed_and_the_same_pictures(write_study: WriteStudy) -> None:
    (comparison,) = compare(_read(write_study(PROBE, VMC, num_replicates=3)))
    word = comparison.differences["probe"]["word"]
    assert word.per_run == pytest.approx([0.3, 0.4, 0.2]) and word.difference == pytest.approx(0.3)
    assert word.covers_seeds and word.num_runs == 3 and comparison.differences["zero_shot"] == {}
    (single,) = compare(_read(write_study(PROBE | {"dino": {"object": 0.6, "word": 0.4}}, VMC, name="single")))
    assert not single.differences["probe"]["word"].covers_seeds


def test_the_order_of_the_inputs_changes_nothing(write_study: WriteStudy) -> None:
    there, back = (
        compare(_read(write_study(PROBE, VMC, num_replicates=3, name=f"{turned}", reverse_inputs=turned)))
        for turned in (False, True)
    )
    assert there == back


def test_several_labelled_sets_become_one_list_of_factors(write_study: WriteStudy) -> None:
    study = _read(write_study(PROBE, VMC, num_replicates=3, sets={"probe": ["object"], "cars": ["word"]}))
    assert study.factors == ["object", "word"] and len(study.first.runs[2].evaluations) == 2
    assert study.first.runs[1].scores["probe"].keys() == {"object", "word"}


def test_pictures_that_one_run_lacks_are_left_out_for_all_and_counted(write_study: WriteStudy) -> None:
    study = _read(write_study(PROBE, VMC, num_replicates=3, num_left_out=5))
    tested = study.tests["probe"]["word"]
    assert tested.num_left_out == 5 and tested.right["dino"].shape == (3, NUM_PICTURES - 5)
    assert tested.ids_N.tolist() == list(range(5, NUM_PICTURES))
    assert study.tests["vmc"]["ocr"].num_left_out == 0


def test_pictures_are_lined_up_by_their_ids_and_not_by_their_places(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    expected = compare(_read(argv))
    path = tmp_path / "study" / "evaluate" / "dino_1" / "predictions.safetensors"
    order = np.random.default_rng(0).permutation(NUM_PICTURES)
    path.write_bytes(safetensors.numpy.save({k: v[order] for k, v in safetensors.numpy.load_file(path).items()}))
    assert compare(_read(argv)) == expected


def test_one_id_with_two_labels_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    path = tmp_path / "study" / "evaluate" / "dino_1" / "predictions.safetensors"
    tensors = safetensors.numpy.load_file(path)
    shuffled = {f"ids/{factor}": tensors[f"ids/{factor}"][::-1].copy() for factor in ("object", "word")}
    path.write_bytes(safetensors.numpy.save(tensors | shuffled))
    with pytest.raises(BadInput, match="has different answers for item 0"):
        _read(argv)


@pytest.mark.parametrize(
    ("field", "pattern", "problem"),
    [
        ("vlms", r",[^,]*/dino_1(?=,|$)", r"--vlms lacks dino \(replicate 1\), which --checkpoints has"),
        ("checkpoints", r",[^,]*/dino_1(?=,|$)", r"--checkpoints lacks dino \(replicate 1\): every arm needs the same"),
        ("checkpoints", r",[^,]*/dino(_\d)?(?=,|$)", r"--checkpoints holds one arm"),
        ("checkpoints", r",[^,]*_2(?=,|$)", r"--evaluations holds clip \(replicate 2\), dino \(replicate 2\), which"),
    ],
)
def test_a_missing_encoder_is_named(write_study: WriteStudy, field: str, pattern: str, problem: str) -> None:
    argv = [
        re.sub(pattern, "", word) if word.startswith(f"--{field}=") else word
        for word in write_study(PROBE, VMC, num_replicates=3)
    ]
    with pytest.raises(BadInput, match=problem):
        _read(argv)


def test_the_same_encoder_or_the_same_set_twice_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC)
    twice = {
        "benchmarks": ("benchmark_vlm/clip", r"--benchmarks holds clip \(replicate 0\) twice"),
        "evaluations": ("evaluate/clip", r"scores clip \(replicate 0\) twice on object, word"),
    }
    for field, (folder, problem) in twice.items():
        more = f",{tmp_path}/study/{folder}"
        with pytest.raises(BadInput, match=problem):
            _read([word + more if word.startswith(f"--{field}=") else word for word in argv])


def test_a_replicate_that_was_tested_on_less_is_refused(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC, num_replicates=3)
    folder = LocalFolder(tmp_path / "study" / "evaluate" / "clip_2")
    write_evaluate(folder, "clip", 2, {"object": 0.6}, 8)
    with pytest.raises(BadInput, match=r"clip was not tested alike in the replicates 0 and 2 \(knn of word"):
        _read(argv)


def test_the_k_that_is_shown_is_twenty_or_the_largest_usable() -> None:
    scores: dict[str, Any] = {"10": 0, "20": 0, "100": 0}
    assert neighbours(scores) == "20" and neighbours({"5": 0, "10": 0}) == "10" and neighbours({"100": 0}) == "100"
