"""The stage over features that are made so that the answers are known: its protocol, and what it refuses."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.build_shards.params import Params as BuildShards
from components.core.evaluation.intervals import wilson
from components.evaluate.params import Params
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, BadInput
from components.runtime.stage import run_stage
from tests.evaluate.conftest import CLASSES, NUM_TEST, NUM_TRAIN, Write

METHODS = ("probe", "logistic", "knn", "zero_shot", "few_shot")
SMALL = ("--probe_epochs=5", "--few_shot_draws=3", "--probe_learning_rates=0.01,0.1", "--probe_weight_decays=0,1")


def run(features: str, out: Path, *more: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns scores and predictions."""
    assert run_stage(Params, [f"--features={features}", f"--out_uri={out}", *SMALL, *more]) == EXIT_DONE
    return json.loads((out / "scores.json").read_text()), load_file(out / "predictions.safetensors")


def refusal(features: str, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Returns the sentence with which the stage refuses."""
    assert run_stage(Params, [f"--features={features}", f"--out_uri={out}", *SMALL, *more]) == EXIT_BAD_INPUT
    return json.loads(capsys.readouterr().err.splitlines()[-1])["problem"]


def relabel(split: str, factor: str, of: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    """Returns a change to one split's labels of a factor."""

    def change(tensors: dict[str, Tensor]) -> None:
        is_changed = tensors["is_test"] == (split == "test")
        tensors[f"labels/{factor}"][is_changed] = of(tensors[f"labels/{factor}"][is_changed])

    return change


def test_every_score_follows_from_the_predictions_beside_it(write_features: Write, tmp_path: Path) -> None:
    scores, predictions = run(write_features("features"), tmp_path / "out")
    assert (scores["arm"], scores["replicate"], scores["warnings"]) == ("clip", 1, [])
    for factor, names in CLASSES.items():
        labels = predictions[f"labels/{factor}"]
        assert predictions[f"ids/{factor}"].tolist() == list(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))
        for method in METHODS[:3] if factor == "colour" else METHODS[:4]:
            stated = scores[method][factor]["20"] if method == "knn" else scores[method][factor]
            num_right = int((predictions[f"{method}/{factor}"] == labels).sum())
            assert stated["accuracy"] == num_right / NUM_TEST and stated["n"] == NUM_TEST
            assert (stated["low"], stated["high"]) == wilson(num_right, NUM_TEST)
            assert stated["chance"] == pytest.approx(1 / len(names), abs=0.02)
            assert method == "zero_shot" or stated["accuracy"] > 0.5
        assert list(scores["knn"][factor]) == ["10", "20", "100", "200"]
        assert list(scores["few_shot"][factor]) == ["1", "5", "10", "25"]
        for of in scores["few_shot"][factor].values():
            assert 0 <= of["low"] < of["accuracy"] < of["high"] <= 1 and of["sd"] > 0
        assert {"learning_rate", "weight_decay", "validation_accuracy"} <= scores["probe"][factor].keys()
        assert {"inverse_strength", "validation_accuracy"} <= scores["logistic"][factor].keys()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    summary = manifest["summary"]
    assert (summary["arm"], summary["replicate"], summary["shards"], summary["leaked"]) == ("clip", 1, "d" * 64, {})
    assert manifest["counts"] == {"factors": 2, "unusable": 0} and "chosen on 20% of train" in summary["protocol"]


def test_no_choice_and_no_prediction_reads_the_test_labels(write_features: Write, tmp_path: Path) -> None:
    def permute(labels: Tensor) -> Tensor:
        return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]

    found, predicted = run(write_features("as_it_is"), tmp_path / "one")
    permuted = write_features("permuted", change=relabel("test", "object", permute))
    other, also_predicted = run(permuted, tmp_path / "two")
    choices = ("learning_rate", "weight_decay", "inverse_strength", "validation_accuracy", "is_converged", "n")
    for method in ("probe", "logistic"):
        one, two = found[method]["object"], other[method]["object"]
        assert one["accuracy"] > 0.6 > 0.45 > two["accuracy"]
        assert {key: one.get(key) for key in choices} == {key: two.get(key) for key in choices}
    for method in ("knn", "few_shot"):
        assert found[method]["object"].keys() == other[method]["object"].keys()
    assert not torch.equal(predicted["labels/object"], also_predicted["labels/object"])
    for name in predicted.keys() - {"labels/object"}:
        assert torch.equal(predicted[name], also_predicted[name]), name


def test_two_runs_write_the_same_bytes(write_features: Write, tmp_path: Path) -> None:
    features = write_features("features")
    for name in ("one", "two"):
        run(features, tmp_path / name)
    for file in ("scores.json", "predictions.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_token_decides_which_vectors_are_probed(write_features: Write, tmp_path: Path) -> None:
    features = write_features("features")
    cls, _ = run(features, tmp_path / "cls")
    patch_mean, _ = run(features, tmp_path / "patch_mean", "--token=patch_mean")
    assert cls["probe"]["object"]["accuracy"] > 0.6 > 0.4 > patch_mean["probe"]["object"]["accuracy"]


class TestTrainedOnAnotherSet:
    def test_a_set_without_training_pictures_is_scored_as_if_it_had_the_others(
        self, write_features: Write, tmp_path: Path
    ) -> None:
        classes = {"cars": ["vw", "fiat", "seat"]}
        _, whole = run(write_features("whole", classes=classes), tmp_path / "one")
        trained = write_features("trained", classes=classes)

        def only_test(tensors: dict[str, Tensor]) -> None:
            for name in tensors:
                tensors[name] = tensors[name][NUM_TRAIN:]

        tested = write_features("tested", classes={"cars2": classes["cars"]}, change=only_test)
        _, moved = run(tested, tmp_path / "two", f"--train_features={trained}")
        for method in METHODS[:4]:
            assert torch.equal(whole[f"{method}/cars"], moved[f"{method}/cars2"]), method

    def test_without_the_other_set_it_is_refused(
        self, write_features: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tested = write_features("tested", num_train=0)
        assert "has no training pictures: give --train_features" in refusal(tested, tmp_path / "out", capsys)

    @pytest.mark.parametrize(
        ("others", "difference"),
        [
            ({"object": ["owl", "hat", "box", "key"], "colour": CLASSES["colour"]}, "class 1 is 'hat' there and 'box'"),
            ({"object": ["owl", "box", "hat"], "colour": CLASSES["colour"]}, "3 there and 4 here"),
            ({"object": CLASSES["object"]}, "no factor 'colour'"),
        ],
    )
    def test_other_classes_are_refused_with_the_first_difference(
        self,
        write_features: Write,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        others: dict[str, list[str]],
        difference: str,
    ) -> None:
        tested, trained = write_features("tested"), write_features("trained", classes=others)
        assert difference in refusal(tested, tmp_path / "out", capsys, f"--train_features={trained}")

    @pytest.mark.parametrize(
        ("other", "difference"),
        [
            ({"summary": {"arm": "dino"}}, "of arm dino and --features of clip"),
            ({"summary": {"replicate": 0}}, "of replicate 0 and --features of 1"),
            ({"inputs": {"checkpoint": "e" * 64}}, "another checkpoint"),
        ],
    )
    def test_another_encoder_is_refused(
        self,
        write_features: Write,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        other: dict[str, dict[str, Any]],
        difference: str,
    ) -> None:
        tested, trained = write_features("tested"), write_features("trained", **other)
        assert difference in refusal(tested, tmp_path / "out", capsys, f"--train_features={trained}")


class TestThinData:
    """FAULTS 63."""

    def test_a_class_without_training_pictures_is_never_predicted_and_counts_as_wrong(
        self, write_features: Write, tmp_path: Path
    ) -> None:
        features = write_features("features", change=relabel("train", "object", lambda of: torch.where(of == 2, 3, of)))
        scores, predictions = run(features, tmp_path / "out")
        num_wrong = int((predictions["labels/object"] == 2).sum())
        assert num_wrong > 0 and scores["warnings"] == [
            f"object: 1 class (hat) without training pictures: {num_wrong} test pictures count as wrong"
        ]
        for method in ("probe", "logistic", "knn"):
            assert 2 not in predictions[f"{method}/object"]
        assert (predictions["zero_shot/object"] == 2).any()
        assert scores["few_shot"]["object"]["1"]["chance"] == pytest.approx((1 - num_wrong / NUM_TEST) / 3)

    def test_a_class_without_test_pictures_is_said(self, write_features: Write, tmp_path: Path) -> None:
        features = write_features("features", change=relabel("test", "object", lambda of: torch.where(of == 2, 3, of)))
        assert run(features, tmp_path / "out")[0]["warnings"] == ["object: 1 class (hat) without test pictures"]

    def test_a_k_above_the_training_pictures_and_shots_above_a_class_are_left_out_and_said(
        self, write_features: Write, tmp_path: Path
    ) -> None:
        scores, predictions = run(write_features("features", num_train=40, num_test=30), tmp_path / "out")
        assert list(scores["knn"]["object"]) == ["10", "20"] and list(scores["few_shot"]["object"]) == ["1", "5"]
        assert [warning for warning in scores["warnings"] if warning.startswith("object")] == [
            "object: only 30 test pictures: the intervals are wide",
            "object: k-NN with k above 40, the number of training pictures, is left out",
            "object: few-shot with more than 5 pictures of a class is left out: one has too few",
        ]
        assert len(predictions["probe/object"]) == 30

    def test_fewer_training_pictures_than_any_k_leave_k_nn_out(self, write_features: Write, tmp_path: Path) -> None:
        scores, predictions = run(write_features("features", num_train=9), tmp_path / "out")
        assert scores["knn"] == {} and "knn/object" not in predictions and "probe/object" in predictions

    @pytest.mark.parametrize(
        ("split", "label", "said"),
        [("train", 1, "training pictures of 1 "), ("test", -1, "test pictures of 0 classes")],
    )
    def test_one_class_or_no_test_pictures_are_refused(
        self,
        write_features: Write,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        split: str,
        label: int,
        said: str,
    ) -> None:
        change = relabel(split, "colour", lambda of: torch.full_like(of, label))
        problem = refusal(write_features("features", change=change), tmp_path / "out", capsys)
        assert "factor 'colour'" in problem and said in problem


class TestWrongLabels:
    """FAULTS 64."""

    @pytest.mark.parametrize("label", [4, -2])
    def test_a_label_that_no_class_has_is_refused_with_its_first_picture(
        self, write_features: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: int
    ) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            tensors["labels/object"][[7, 9]] = label

        problem = refusal(write_features("features", change=change), tmp_path / "out", capsys)
        assert f"picture 7 has class {label} of factor 'object', which has 4 classes from 0 (2 such" in problem

    def test_a_class_list_of_another_length_than_the_prompts_is_refused(
        self, write_features: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        longer = {"factors": {"object": [*CLASSES["object"], "cat"], "colour": CLASSES["colour"]}}
        problem = refusal(write_features("features", summary=longer), tmp_path / "out", capsys)
        assert "has 5 classes and 4 class embeddings" in problem


class TestUnusableFeatures:
    """FAULTS 65."""

    def test_a_stray_one_is_left_out_and_counted(self, write_features: Write, tmp_path: Path) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            tensors["cls"][5] = float("nan")

        scores, _ = run(write_features("features", num_train=1000, change=change), tmp_path / "out")
        counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
        assert counts["unusable"] == 1 and scores["probe"]["object"]["n"] == NUM_TEST

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
    def test_more_than_a_thousandth_are_refused(
        self, write_features: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
    ) -> None:
        def change(tensors: dict[str, Tensor]) -> None:
            tensors["cls"][NUM_TRAIN : NUM_TRAIN + 2] = value

        problem = refusal(write_features("features", change=change), tmp_path / "out", capsys)
        assert f"2 of {NUM_TEST} pictures" in problem and "0.1%" in problem


class TestLeaks:
    """FAULTS 70."""

    WriteShards = Callable[[str, Sequence[bytes]], tuple[str, str]]

    @staticmethod
    def hashes(first: int, num_pictures: int) -> list[bytes]:
        return [hashlib.sha256(bytes([i % 256, i // 256])).digest()[:16] for i in range(first, first + num_pictures)]

    def test_tested_pictures_that_were_trained_on_are_counted(
        self, write_features: Write, write_shards: WriteShards, tmp_path: Path
    ) -> None:
        total = NUM_TRAIN + NUM_TEST
        shards, digest = write_shards("labelled", self.hashes(0, total))
        seen, _ = write_shards(
            "seen", [*self.hashes(0, 50), *self.hashes(total - 7, 100)]
        )  # train pictures don't count
        features = write_features("features", summary={"shards": digest})
        scores, _ = run(features, tmp_path / "out", f"--shards={shards}", f"--pretrain_shards={seen}")
        expected = {"num_test": NUM_TEST, "num_in_train": 7}
        assert scores["leaked"] == expected
        assert json.loads((tmp_path / "out" / "manifest.json").read_text())["summary"]["leaked"] == expected

    def test_hashes_are_the_ones_that_build_shards_writes(self, write_features: Write, tmp_path: Path) -> None:
        shards = tmp_path / "shards"
        argv = [f"--out_uri={shards}", "--purpose=probe", "--num_samples=60", "--image_size_px=32", "--num_workers=1"]
        assert run_stage(BuildShards, argv) == EXIT_DONE
        manifest = json.loads((shards / "manifest.json").read_text())
        features = write_features("features", num_train=40, num_test=20, summary={"shards": manifest["digest"]})
        scores, _ = run(features, tmp_path / "out", f"--shards={shards}", f"--pretrain_shards={shards}")
        assert scores["leaked"] == {"num_test": 20, "num_in_train": 20}

    def test_other_shards_than_the_features_are_of_are_refused(
        self,
        write_features: Write,
        write_shards: WriteShards,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shards, _ = write_shards("labelled", self.hashes(0, 550))
        more = (f"--shards={shards}", f"--pretrain_shards={shards}")
        problem = refusal(write_features("features"), tmp_path / "out", capsys, *more)
        assert "not what --features are of" in problem


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"probe_learning_rates": "0.1;0.2"}, "is not a list of numbers"),
        ({"probe_learning_rates": "0,0.1"}, "expected all above 0"),
        ({"probe_learning_rates": "0.1,nan"}, "expected all above 0"),
        ({"probe_weight_decays": "0,-1"}, "expected all at least 0"),
        ({"probe_weight_decays": "1,0.1"}, "is not ascending"),
        ({"probe_weight_decays": ",".join(map(str, range(33)))}, "over 32 numbers"),
        ({"pretrain_shards": "seen"}, "give the labelled shards"),
    ],
)
def test_impossible_parameters_are_refused_in_a_sentence(given: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Params(out_uri="out", features="features", **given)
