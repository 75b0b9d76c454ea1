"""Published labelled sets become shards with their own labels, names, order and splits."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from PIL import Image

from components.build_shards.labelled_sets import SETS, LabelledSource
from components.build_shards.params import LABELLED_SETS, Params
from components.core.data import class_names, prompts
from components.core.data.shard_samples import Sample, read_samples
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.runtime.manifest import Manifest, read_manifest
from components.runtime.stage import run_stage
from components.runtime.storage import open_folder
from tests.build_shards import published_trees
from tests.build_shards.published_trees import TREES, Published, hugging_face
from tests.s3 import s3_server, use_s3


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CETERIS_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))


def build(
    tmp_path: Path, labelled_set: str, source: Path | str, *argv: str, code: int = 0, out: str = "out", workers: int = 1
) -> Manifest:
    words = [f"--out_uri={tmp_path / out}", "--purpose=probe", f"--labelled_set={labelled_set}"]
    assert run_stage(Params, [*words, f"--source_uri={source}", f"--num_workers={workers}", *argv]) == code
    return read_manifest(open_folder(str(tmp_path / out))) if code == 0 else None


def samples_of(tmp_path: Path, manifest: Manifest, out: str = "out") -> list[Sample]:
    return list(read_samples(open_folder(str(tmp_path / out)), manifest))


def found_in(samples: list[Sample], factor: str) -> dict[bytes, tuple[int, str]]:
    return {sample.image.tobytes(): (sample.labels[factor], sample.split) for sample in samples}


def events(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]


def check(tmp_path: Path, labelled_set: str, made: Published, *argv: str) -> Manifest:
    manifest = build(tmp_path, labelled_set, made.root, *argv)
    samples = samples_of(tmp_path, manifest)
    assert found_in(samples, labelled_set) == made.truth
    assert len(samples) == len(made.truth) == manifest.counts["samples"]
    assert manifest.summary["factors"] == {labelled_set: made.classes}
    assert len({sample.key for sample in samples}) == len(samples)
    return manifest


@pytest.mark.parametrize("labelled_set", LABELLED_SETS)
def test_every_picture_has_its_official_label_and_split(tmp_path: Path, labelled_set: str) -> None:
    made = TREES[labelled_set](tmp_path / "published")
    about = check(tmp_path, labelled_set, made).summary["labelled_set"]
    splits = collections.Counter(split for _, split in made.truth.values())
    known = SETS[labelled_set]
    assert about == {
        "name": labelled_set,
        "train": {"samples": splits["train"], "published": known.num_train},
        "test": {"samples": splits["test"], "published": known.num_test},
        "repeats": {"train": 0, "test": 0, "test_in_train": 0},
    }
    assert (splits["train"] == 0) == (known.num_train == 0)
    (said,) = [event for event in events(tmp_path) if event["event"] == "labelled_set"]
    assert said["test"] == f"{splits['test']} of {known.num_test}" and said["repeats"] == 0


@pytest.mark.parametrize("validation", ["kaggle", "devkit"])
def test_validation_pictures_of_imagenet_without_folders_have_the_classes_of_the_list(
    tmp_path: Path, validation: str
) -> None:
    check(tmp_path, "imagenet", published_trees.imagenet(tmp_path / "published", validation))


def test_validation_is_imagenets_test_split_at_hugging_face_and_the_unlabelled_one_is_passed_over(
    tmp_path: Path,
) -> None:
    labels = {"data/train-00000-of-00002.parquet": [0, 1, 2] * 5, "data/train-00001-of-00002.parquet": [2, 1, 0]}
    labels["data/validation-00000-of-00001.parquet"] = [1, 1, 0, 2]
    made = hugging_face(tmp_path / "published", ["tench, Tinca tinca", "goldfish", "shark"], labels)
    unlabelled = hugging_face(tmp_path / "published", made.classes, {"data/test-00000-of-00001.parquet": [-1] * 5})
    assert unlabelled.truth
    check(tmp_path, "imagenet", made)


def test_validation_belongs_to_the_train_split_of_flowers_at_hugging_face(tmp_path: Path) -> None:
    labels = {"data/train-0.parquet": [1, 0, 1], "data/validation-0.parquet": [0, 1], "data/test-0.parquet": [0] * 9}
    made = hugging_face(tmp_path / "published", ["rose", "lotus"], labels)
    made.truth = {p: (label, "train" if n < 5 else "test") for n, (p, (label, _)) in enumerate(made.truth.items())}
    manifest = check(tmp_path, "flowers102", made)
    assert manifest.summary["prompts"]["flowers102"]["lotus"][0] == "a photo of a lotus, a type of flower."


def test_the_fine_labels_of_cifar100_count_at_hugging_face(tmp_path: Path) -> None:
    labels = {"cifar100/train-00000-of-00001.parquet": [3, 2, 1, 0] * 3, "cifar100/test-00000-of-00001.parquet": [1, 3]}
    made = hugging_face(tmp_path / "published", ["a", "b", "c", "d"], labels, "fine_label", ("coarse_label",))
    check(tmp_path, "cifar100", made)


def test_a_set_without_a_train_split_is_all_test_whatever_hugging_faces_file_is_called(tmp_path: Path) -> None:
    made = hugging_face(tmp_path / "published", [], {"data/train-0.parquet": [*range(10), 3]})
    made.truth = {pixels: (label, "test") for pixels, (label, _) in made.truth.items()}
    made.classes = list(class_names.CIFAR10)
    check(tmp_path, "cifar10.1", made)


def test_the_classes_of_cifar10_and_of_its_second_test_set_have_the_same_names(tmp_path: Path) -> None:
    assert TREES["cifar10"](tmp_path).classes == list(class_names.CIFAR10)


def test_two_classes_of_one_name_stay_two_and_have_the_names_of_open_clip(tmp_path: Path) -> None:
    for number in range(1000):
        for top in ("train", "val"):
            path = tmp_path / top / f"n{number * 7:08d}" / "0.JPEG"
            path.parent.mkdir(parents=True)
            path.touch()
    items = LabelledSource(open_folder(str(tmp_path)), "imagenet", 2000, 0).items()
    names = {int(label): name for item in items for label, name in item.spec["classes"].items()}
    assert [names[label] for label in range(1000)] == list(class_names.imagenet())
    assert sum(name == "sunglasses" for name in names.values()) == 2
    assert {label for item in items for label in item.spec["labels"]} == set(range(1000))
    texts = prompts.set_prompts("imagenet", class_names.imagenet())
    assert len(texts["sunglasses"]) == 80 and texts["tench"][0] == "a bad photo of a tench."


def test_no_equal_small_or_long_picture_of_a_set_is_left_out_and_the_equal_ones_are_counted(tmp_path: Path) -> None:
    made = published_trees.cub200(tmp_path / "published")
    images = made.root / "CUB_200_2011/images/001.Black_footed_Albatross"
    # of each class, numbers 1, 3 and 5 are to train on, 0, 2 and 4 to test on
    for copy, original in ((2, 0), (4, 0), (3, 1)):
        (images / f"Bird_{copy:04d}_0.jpg").write_bytes((images / f"Bird_{original:04d}_0.jpg").read_bytes())
    other = made.root / "CUB_200_2011/images/002.Laysan_Albatross/Bird_0000_1.jpg"
    other.write_bytes((images / "Bird_0001_0.jpg").read_bytes())
    Image.new("RGB", (2, 2)).save(made.root / "CUB_200_2011/images/003.Sooty_Albatross/Bird_0000_2.jpg")
    manifest = build(tmp_path, "cub200", made.root, "--near_duplicate_bits=16", "--min_side_px=20")
    samples = samples_of(tmp_path, manifest)
    assert len(samples) == len({sample.key for sample in samples}) == 18
    assert manifest.counts["duplicates"] == manifest.counts["rejected"] == 0
    assert manifest.summary["labelled_set"]["repeats"] == {"train": 1, "test": 2, "test_in_train": 1}


def test_only_the_train_split_is_cut_alike_in_each_class_and_a_larger_cut_keeps_what_a_smaller_one_does(
    tmp_path: Path,
) -> None:
    made = published_trees.cifar10(tmp_path / "published")
    kept = {}
    for num_samples in (30, 47, 120):
        source = LabelledSource(open_folder(str(made.root)), "cifar10", num_samples, seed=1)
        specs = [item.spec for item in source.items()]
        pictures = [p for s in specs for p in zip(s["names"], s["labels"], s["is_test"], strict=True)]
        assert len(pictures) == num_samples and sum(is_test for *_, is_test in pictures) == 20
        per_class = collections.Counter(label for _, label, is_test in pictures if not is_test)
        assert max(per_class.values()) - min(per_class.values()) <= 1
        kept[num_samples] = {name for name, *_ in pictures}
    assert kept[30] < kept[47] < kept[120]
    other = LabelledSource(open_folder(str(made.root)), "cifar10", 30, seed=2)
    assert {name for item in other.items() for name in item.spec["names"]} != kept[30]


def test_a_number_of_samples_that_would_cut_the_test_split_is_refused(tmp_path: Path) -> None:
    made = published_trees.cifar10(tmp_path / "published")
    build(tmp_path, "cifar10", made.root, "--num_samples=29", code=2)
    problem = events(tmp_path)[-1]["problem"]
    assert "--num_samples=29 is less than the 20 test pictures of cifar10, which are never cut" in problem
    assert "give 30 or more; 120 is all" in problem
    manifest = build(tmp_path, "cifar10", made.root, "--num_samples=30")
    assert manifest.summary["labelled_set"]["train"]["samples"] == 10


def test_pictures_of_another_evaluation_are_taken_from_the_train_split_only(tmp_path: Path) -> None:
    made = published_trees.cars(tmp_path / "published")
    build(tmp_path, "cars", made.root, out="first")
    for folder in ("cars_train", "cars_test"):
        (made.root / folder / "00001.jpg").write_bytes((made.root / "cars_test/00002.jpg").read_bytes())
    manifest = build(tmp_path, "cars", made.root, f"--exclude={tmp_path / 'first'}")
    assert manifest.counts["reasons"] == {"in_evaluation": 1}
    assert manifest.summary["labelled_set"]["test"]["samples"] == 9


def test_a_damaged_test_picture_fails_the_stage_and_a_damaged_train_picture_is_counted(tmp_path: Path) -> None:
    made = published_trees.cars(tmp_path / "published")
    (made.root / "cars_train/00003.jpg").write_bytes(b"<html>")
    manifest = build(tmp_path, "cars", made.root, "--max_reject_fraction=0.1", out="first")
    assert manifest.counts["reasons"] == {"not_image": 1}
    (made.root / "cars_test/00003.jpg").write_bytes(b"<html>")
    build(tmp_path, "cars", made.root, "--max_reject_fraction=0.5", code=1)
    assert "1 of 9 test pictures of cars were rejected (not_image 1)" in events(tmp_path)[-1]["problem"]


@pytest.mark.parametrize("labelled_set", ["imagenet", "cifar10.1"])
def test_the_shards_are_the_same_from_s3_and_with_more_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled_set: str
) -> None:
    made = TREES[labelled_set](tmp_path / "published")
    local = build(tmp_path, labelled_set, made.root)
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        boto3.client("s3").create_bucket(Bucket="bucket")
        bucket = open_folder("s3://bucket/published")
        for path in made.root.rglob("*.*"):
            bucket.write(str(path.relative_to(made.root)), path.read_bytes())
        remote = build(tmp_path, labelled_set, bucket.uri, out="remote", workers=2)
    assert remote.files == local.files


def test_the_first_pictures_are_of_every_class_and_split(tmp_path: Path) -> None:
    for label in range(10):
        for top, num_pictures in (("train", 60), ("val", 6)):
            for n in range(num_pictures):
                path = tmp_path / top / f"n{label:08d}" / f"{n}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    spec = LabelledSource(open_folder(str(tmp_path)), "imagenet", 660, 0).items()[0].spec
    assert len(spec["names"]) == 256 and len(set(spec["labels"])) == 10
    assert 10 < sum(spec["is_test"]) < 50


def test_sets_and_prompts_are_the_same_everywhere_and_stand_in_the_readme() -> None:
    assert tuple(SETS) == LABELLED_SETS and {*prompts.OF_SET, *prompts.IMAGENETS} == set(SETS)
    readme = (Path(__file__).parents[2] / "components/build_shards/README.md").read_text()
    for name, known in SETS.items():
        assert f"| `{name}` | {known.layout} | {known.splits} | {known.num_train:,} / {known.num_test:,} |\n" in readme


def test_the_flowers_have_torchvisions_names() -> None:
    allow_torchvision_import()
    from torchvision.datasets import Flowers102

    assert [name.removesuffix("?") for name in Flowers102.classes] == list(class_names.FLOWERS102)


def test_classes_without_names_have_no_prompts_and_names_need_no_torch() -> None:
    assert (
        prompts.set_prompts("imagenet", ["n01440764", "n01443537"]) == prompts.set_prompts("cub200", ["1", "2"]) == {}
    )
    code = (
        "import sys; from components.core.data.class_names import imagenet; imagenet(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
