"""A folder that isn't quite a published set is refused in a sentence that names the file and the layout."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from components.build_shards.labelled_sets import LabelledSource
from components.build_shards.params import Params
from components.core.data import class_names
from components.runtime.errors import BadInput
from components.runtime.storage import open_folder
from tests.build_shards.published_trees import TREES, Published, hugging_face, imagenet, save

Change = Callable[[Published], None]


def refusal(made: Published, labelled_set: str) -> str:
    source = LabelledSource(open_folder(str(made.root)), labelled_set, 10**6, 0)
    with pytest.raises(BadInput) as caught:
        source.items()
    (problem,) = caught.value.problems
    assert problem.startswith(f"--source_uri={made.root} ")
    return problem


def gone(name: str) -> Change:
    return lambda made: (made.root / name).unlink()


def written(name: str, data: bytes | str) -> Change:
    return lambda made: made.file(name, data)


def replaced(name: str, old: bytes, new: bytes) -> Change:
    def change(made: Published) -> None:
        data = (made.root / name).read_bytes()
        assert old in data
        made.file(name, data.replace(old, new, 1))

    return change


def array(values: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array(values, **options), allow_pickle=True)
    return buffer.getvalue()


def ids(**splits: list[int]) -> Change:
    return lambda made: save(made, "setid.mat", **{name: numpy.array([found]) for name, found in splits.items()})


CUB, CIFAR, CIFAR100, NPY = "CUB_200_2011/", "cifar-10-batches-bin/", "cifar-100-binary/", "datasets/cifar10.1_v6_"


@pytest.mark.parametrize(
    ("labelled_set", "change", "expected"),
    [
        (
            "cifar10",
            gone(f"{CIFAR}data_batch_3.bin"),
            "holds no data_batch_3.bin: --labelled_set=cifar10 is the binary",
        ),
        ("cifar10", gone(f"{CIFAR}batches.meta.txt"), "holds no batches.meta.txt"),
        (
            "cifar10",
            written(f"{CIFAR}test_batch.bin", bytes(3072)),
            "test_batch.bin of 3072 bytes, which is no multiple",
        ),
        ("cifar10", written(f"{CIFAR}test_batch.bin", b""), "has no pictures of the test split"),
        ("cifar10", replaced(f"{CIFAR}batches.meta.txt", b"truck\n", b""), "a label 9 (counted from 0) of cifar-10"),
        (
            "cifar10",
            replaced(f"{CIFAR}batches.meta.txt", b"truck", b"truck\nx"),
            "no picture of class 10 (counted from 0), 'x'",
        ),
        ("cifar10", written(f"{CIFAR}batches.meta.txt", b"\xff\xfe"), "batches.meta.txt that is no text"),
        ("cifar100", gone(f"{CIFAR100}fine_label_names.txt"), "holds no fine_label_names.txt"),
        ("cifar10.1", gone(f"{NPY}labels.npy"), "holds no cifar10.1_v6_labels.npy"),
        (
            "cifar10.1",
            written(f"{NPY}labels.npy", array([{}] * 30)),
            "labels.npy that can't be read as NumPy's (Object",
        ),
        ("cifar10.1", written(f"{NPY}labels.npy", array([0] * 29)), "labels.npy of shape (29,) and type int64 for 30"),
        (
            "cifar10.1",
            written(f"{NPY}data.npy", array([{}])),
            "data.npy of shape (1,) and type object instead of N x 32",
        ),
        ("cifar10.1", written(f"{NPY}data.npy", b"nothing"), "data.npy that can't be read as NumPy's"),
        ("cifar10.1", replaced(f"{NPY}data.npy", b"(30,", b"(31,"), "bytes where 95360 belong"),
        ("cub200", gone(f"{CUB}images.txt"), "holds no images.txt"),
        (
            "cub200",
            gone(f"{CUB}images/002.Laysan_Albatross/Bird_0000_1.jpg"),
            "lacks 1 of 18 pictures, CUB_200_2011/ima",
        ),
        (
            "cub200",
            replaced(f"{CUB}train_test_split.txt", b"4 1\n", b""),
            "train_test_split.txt with '5 0' where images.txt has '4 001",
        ),
        (
            "cub200",
            replaced(f"{CUB}image_class_labels.txt", b"18 3\n", b""),
            "labels.txt with 'nothing ' where images.txt has '18 ",
        ),
        (
            "cub200",
            replaced(f"{CUB}classes.txt", b"2 002", b"3 002"),
            "calls 002.Laysan_Albatross class 3 where 2 comes next",
        ),
        (
            "cub200",
            replaced(f"{CUB}classes.txt", b"2 002.Lay", b"002.Lay"),
            "line 2 is '002.Laysan_Albatross' instead of two",
        ),
        ("cub200", replaced(f"{CUB}image_class_labels.txt", b"18 3", b"18 4"), "a label 3 (counted from 0) of CUB"),
        ("flowers102", gone("setid.mat"), "holds no setid.mat"),
        ("flowers102", gone("jpg/image_00007.jpg"), "lacks 1 of 32 pictures, jpg/image_00007.jpg"),
        (
            "flowers102",
            written("setid.mat", b"MATLAB 5.0 but not for long"),
            "setid.mat that can't be read as MATLAB's",
        ),
        ("flowers102", ids(trnid=[1], valid=[2]), "setid.mat without `tstid`"),
        ("flowers102", ids(trnid=[1], valid=[2], tstid=[*range(2, 33)]), "whose `tstid` has 2, which is in it twice"),
        (
            "flowers102",
            ids(trnid=[1], valid=[2], tstid=[*range(4, 33)]),
            "without picture 3, which imagelabels.mat has",
        ),
        (
            "flowers102",
            ids(trnid=[1], valid=[2], tstid=[*range(3, 34)]),
            "whose `tstid` has 33, which is in it twice or",
        ),
        ("cars", gone("cars_test_annos_withlabels.mat"), "holds no cars_test_annos_withlabels.mat"),
        ("cars", gone("cars_test/00004.jpg"), "lacks 1 of 18 pictures, cars_test/00004.jpg"),
        ("cars", lambda made: save(made, "cars_test_annos_withlabels.mat", annotations=[1]), "lacks the field fname"),
        (
            "imagenet",
            written("val/n99999999/ILSVRC2012_val_00000009.JPEG", b"1"),
            "of class n99999999, which isn't in train/",
        ),
        (
            "imagenet",
            written("val/ILSVRC2012_val_00000009.JPEG", b"1"),
            "in no folders of classes, and neither LOC_val",
        ),
        ("imagenetv2", written("imagenetv2-top-images-format-val/0/a.jpeg", b"1"), "holds 2 sets (imagenetv2-matched"),
        (
            "imagenetv2",
            written("imagenetv2-matched-frequency-format-val/14/a.jpeg", b"1"),
            "no picture of class 12 (counted",
        ),
    ],
)
def test_what_is_missing_or_odd_is_named(tmp_path: Path, labelled_set: str, change: Change, expected: str) -> None:
    made = TREES[labelled_set](tmp_path)
    change(made)
    assert expected in refusal(made, labelled_set)


@pytest.mark.parametrize(("validation", "file"), [("kaggle", "LOC_val_solution.csv"), ("devkit", "ILSVRC2012_valid")])
def test_a_validation_picture_without_a_class_is_named(tmp_path: Path, validation: str, file: str) -> None:
    made = imagenet(tmp_path, validation)
    made.file("val/ILSVRC2012_val_00000009.JPEG", b"1")
    assert f"has no class for val/ILSVRC2012_val_00000009.JPEG in {file}" in refusal(made, "imagenet")


@pytest.mark.parametrize("labelled_set", TREES)
def test_an_empty_folder_is_refused_with_the_layout_that_it_should_have(tmp_path: Path, labelled_set: str) -> None:
    problem = refusal(Published(tmp_path, []), labelled_set)
    assert f": --labelled_set={labelled_set} is " in problem and "as published, or Hugging Face's parquet" in problem


@pytest.mark.parametrize(
    ("labelled_set", "classes", "files", "expected"),
    [
        (
            "cars",
            ["a", "b"],
            {"data/train-0.parquet": [0, 1]},
            "none of the test split (they are data/train-0.parquet)",
        ),
        (
            "cars",
            ["a", "b"],
            {"train-0.parquet": [0, 1], "test-0.parquet": [2]},
            "a label 2 (counted from 0) of test-0",
        ),
        (
            "cars",
            ["a", "b"],
            {"train-0.parquet": [0, 1], "test-0.parquet": [-1]},
            "a label -1 (counted from 0) of test-0",
        ),
        (
            "cars",
            ["a", "b"],
            {"train-0.parquet": [0], "test-0.parquet": [0]},
            "no picture of class 1 (counted from 0), 'b'",
        ),
        ("cars", ["a"], {"train-0.parquet": [0], "test-0.parquet": [0]}, "has 1 classes, of which a probe needs two"),
        ("cars", [], {"train-0.parquet": [0, 1], "test-0.parquet": [0]}, "whose metadata have no names of classes"),
        ("imagenet", ["a", "b"], {"train-0.parquet": [0, 1], "test-0.parquet": [0]}, "none of the test split"),
        (
            "flowers102",
            ["1", "10", "2"],
            {"train-0.parquet": [0, 1], "test-0.parquet": [2]},
            "class 1 '10' where '2' comes",
        ),
        (
            "imagenet",
            [f"n{n:08d}" for n in (1, 3, 2)],
            {"train-0.parquet": [0, 1, 2], "val-0.parquet": [0]},
            "class 1 'n00000003' where 'n00000002' comes next in the official order",
        ),
    ],
)
def test_odd_parquet_is_refused_with_the_first_difference(
    tmp_path: Path, labelled_set: str, classes: list[str], files: dict[str, list[int]], expected: str
) -> None:
    assert expected in refusal(hugging_face(tmp_path, classes, files), labelled_set)


def test_parquet_files_with_other_class_names_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    hugging_face(tmp_path, ["a", "b", "c"], {"train-0.parquet": [0, 1, 2]})
    made = hugging_face(tmp_path, ["a", "x"], {"test-0.parquet": [0]})
    assert "calls class 1 'x' in test-0.parquet and 'b' in train-0.parquet" in refusal(made, "cars")


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"1", b"2"], "label": ["a", "b"]}), buffer)
    made = Published(tmp_path, [])
    made.file("train-0.parquet", buffer.getvalue())
    made.file("test-0.parquet", buffer.getvalue())
    assert "without one of class numbers called `label`" in refusal(made, "cars")


@pytest.mark.parametrize("argv", [{"purpose": "pretrain", "source_uri": "somewhere"}, {"purpose": "probe"}])
def test_a_set_is_for_a_probe_and_lies_somewhere(argv: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=r"--labelled_set=cars doesn't go with .* give --purpose=probe and the set's"):
        Params(out_uri="out", labelled_set="cars", **argv)


def test_without_open_clip_the_names_of_imagenet_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_names._open_clip.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for label in range(1000):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / "a.jpeg").touch()
    with pytest.raises(BadInput, match=r"names of its classes from open_clip, which isn't installed here: install"):
        LabelledSource(open_folder(str(tmp_path)), "imagenetv2", 1000, 0).items()
