"""Small sets in exactly the layouts in which the real ones were published, and what is right for each picture."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from PIL import Image
from scipy.io import savemat

Truth = dict[bytes, tuple[int, str]]
WORDNET_IDS = ["n01440764", "n01443537", "n02123045", "n04356056"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclasses.dataclass
class Published:
    """Where a set lies, and what is right.

    Attributes:
        classes: Names in the official order.
        truth: Label and split of each picture, by its pixels.
    """

    root: Path
    classes: list[str]
    truth: Truth = dataclasses.field(default_factory=dict)
    rng: numpy.random.Generator = dataclasses.field(default_factory=lambda: numpy.random.default_rng(0))

    def jpeg(self, label: int, split: str, size: tuple[int, int] = (24, 20)) -> bytes:
        """Returns a new picture, and remembers what is right for it."""
        noise = self.rng.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, format="JPEG")
        self.truth[Image.open(buffer).convert("RGB").tobytes()] = (label, split)
        return buffer.getvalue()

    def file(self, name: str, data: bytes | str) -> None:
        """Writes a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def pixels(self, label: int, split: str) -> numpy.ndarray:
        """Returns a new picture of 32 x 32 x 3 bytes, and remembers what is right for it."""
        pixels = self.rng.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)
        self.truth[pixels.tobytes()] = (label, split)
        return pixels


def imagenet(root: Path, validation: str = "folders") -> Published:
    """Four classes; `validation` is `folders`, `kaggle` or `devkit`."""
    made = Published(root, WORDNET_IDS)
    top = "ILSVRC/Data/CLS-LOC/" if validation == "kaggle" else ""
    kit = "ILSVRC2012_devkit_t12/data/"
    for label, wordnet_id in enumerate(WORDNET_IDS):
        for n in range(5):
            made.file(f"{top}train/{wordnet_id}/{wordnet_id}_{n}.JPEG", made.jpeg(label, "train"))
    labels = [2, 0, 3, 1, 1, 0, 2, 3]
    for n, label in enumerate(labels, start=1):
        size = (3, 60) if n == 5 else (24, 20)
        folder = f"{WORDNET_IDS[label]}/" if validation == "folders" else ""
        made.file(f"{top}val/{folder}ILSVRC2012_val_{n:08d}.JPEG", made.jpeg(label, "test", size))
    made.file(f"{top}test/ILSVRC2012_test_00000001.JPEG", b"without a label")
    made.file(f"{top}train/{WORDNET_IDS[0]}/._hidden.JPEG", b"what a Mac leaves behind")
    if validation == "kaggle":
        rows = [f"ILSVRC2012_val_{n:08d},{WORDNET_IDS[label]} 1 2 3 4 " for n, label in enumerate(labels, start=1)]
        made.file("LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(rows)]))
    if validation == "devkit":
        order = [3, 1, 0, 2]  # the development kit's classes are not in the order of their WordNet ids
        synsets = [{"ILSVRC2012_ID": n, "WNID": WORDNET_IDS[label]} for n, label in enumerate(order, start=1)]
        synsets.append({"ILSVRC2012_ID": 1001, "WNID": "n00001740"})
        numbers = "".join(f"{order.index(label) + 1}\n" for label in labels)
        made.file(f"{kit}ILSVRC2012_validation_ground_truth.txt", numbers)
        save(made, f"{kit}meta.mat", synsets=structs(synsets))
    return made


def imagenetv2(root: Path) -> Published:
    """Twelve classes, so that 10 comes before 2 as text."""
    made = Published(root, [str(label) for label in range(12)])
    for label in range(12):
        for n in range(2):
            name = f"imagenetv2-matched-frequency-format-val/{label}/{n:x}0ab.jpeg"
            made.file(name, made.jpeg(label, "test"))
    return made


def cifar10(root: Path) -> Published:
    """The binary version."""
    made = Published(root, CIFAR10)
    for file in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        split = "test" if file.startswith("test") else "train"
        labels = made.rng.permutation(20) % 10
        records = [bytes([label]) + planar(made.pixels(int(label), split)) for label in labels]
        made.file(f"cifar-10-batches-bin/{file}", b"".join(records))
    made.file("cifar-10-batches-bin/batches.meta.txt", "\n".join(CIFAR10) + "\n\n")
    made.file("cifar-10-batches-bin/readme.html", "<html>")
    return made


def cifar100(root: Path) -> Published:
    """The binary version: coarse label, fine label, pixels."""
    names = [f"fine_{label:02d}" for label in range(100)]
    made = Published(root, [name.replace("_", " ") for name in names])
    for file, split, size in (("train.bin", "train", 200), ("test.bin", "test", 100)):
        labels = made.rng.permutation(size) % 100
        records = [bytes([label // 5, label]) + planar(made.pixels(int(label), split)) for label in labels]
        made.file(f"cifar-100-binary/{file}", b"".join(records))
    made.file("cifar-100-binary/fine_label_names.txt", "\n".join(names) + "\n")
    made.file("cifar-100-binary/coarse_label_names.txt", "\n".join(f"coarse_{n}" for n in range(20)))
    return made


def cifar10_1(root: Path) -> Published:
    """Version 6, beside version 4."""
    made = Published(root, CIFAR10)
    labels = (made.rng.permutation(30) % 10).astype(numpy.int32)
    pixels = numpy.stack([made.pixels(int(label), "test") for label in labels])
    for name, array in {"v6_data": pixels, "v6_labels": labels, "v4_data": pixels[:5], "v4_labels": labels[:5]}.items():
        buffer = io.BytesIO()
        numpy.save(buffer, array)
        made.file(f"datasets/cifar10.1_{name}.npy", buffer.getvalue())
    return made


def cub200(root: Path) -> Published:
    """Three birds."""
    folders = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    made = Published(root, ["Black footed Albatross", "Laysan Albatross", "Sooty Albatross"])
    rows: list[tuple[str, int, int]] = []
    for label, folder in enumerate(folders):
        for n in range(6):
            name, is_train = f"{folder}/Bird_{n:04d}_{label}.jpg", n % 2
            made.file(f"CUB_200_2011/images/{name}", made.jpeg(label, "train" if is_train else "test"))
            rows.append((name, label + 1, is_train))
    for file, column in {"images": 0, "image_class_labels": 1, "train_test_split": 2}.items():
        made.file(f"CUB_200_2011/{file}.txt", "".join(f"{n} {row[column]}\n" for n, row in enumerate(rows, start=1)))
    made.file("CUB_200_2011/classes.txt", "".join(f"{n} {folder}\n" for n, folder in enumerate(folders, start=1)))
    return made


def flowers102(root: Path) -> Published:
    """Four flowers, without names; the test split is the largest."""
    made = Published(root, ["1", "2", "3", "4"])
    labels = made.rng.permutation(32) % 4 + 1
    ids = made.rng.permutation(32) + 1
    splits = {"trnid": ids[:6], "valid": ids[6:12], "tstid": ids[12:]}
    for number, label in enumerate(labels, start=1):
        split = "test" if number in splits["tstid"] else "train"
        made.file(f"jpg/image_{number:05d}.jpg", made.jpeg(int(label) - 1, split))
    save(made, "imagelabels.mat", labels=labels.astype(numpy.uint8)[None])
    save(made, "setid.mat", **{name: found.astype(numpy.uint16)[None] for name, found in splits.items()})
    return made


def cars(root: Path) -> Published:
    """Three cars; both folders count from 1."""
    made = Published(root, ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"])
    for split, folder, annotations in (
        ("train", "cars_train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test", "cars_test_annos_withlabels.mat"),
    ):
        labels = (made.rng.permutation(9) % 3).tolist()
        for n, label in enumerate(labels, start=1):
            made.file(f"{folder}/{n:05d}.jpg", made.jpeg(label, split))
        rows = [{"bbox_x1": 1, "class": label + 1, "fname": f"{n:05d}.jpg"} for n, label in enumerate(labels, start=1)]
        save(made, annotations, annotations=structs(rows))
    save(made, "devkit/cars_meta.mat", class_names=numpy.array(made.classes, dtype=object)[None])
    return made


def planar(pixels: numpy.ndarray) -> bytes:
    """Returns all red, then all green, then all blue."""
    return b"".join(pixels[:, :, channel].tobytes() for channel in range(3))


def structs(rows: list[dict[str, Any]]) -> numpy.ndarray:
    """Returns a 1 x N struct array for savemat."""
    array = numpy.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for n, row in enumerate(rows):
        array[0, n] = tuple(row.values())
    return array


def save(made: Published, name: str, **variables: Any) -> None:
    """Writes a MATLAB file."""
    buffer = io.BytesIO()
    savemat(buffer, variables)
    made.file(name, buffer.getvalue())


def hugging_face(
    root: Path, classes: list[str], files: dict[str, list[int]], column: str = "label", more: tuple[str, ...] = ()
) -> Published:
    """Parquet files with pictures of the labels given; `more` columns are of classes too."""
    made = Published(root, classes)
    about: dict[str, Any] = {"image": {"_type": "Image"}}
    about |= {name: {"_type": "ClassLabel", "names": classes} for name in (column, *more)} if classes else {}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [("image", kind), *((name, pyarrow.int64()) for name in (*more, column))]
    metadata = {"huggingface": json.dumps({"info": {"features": about}})}
    for file, labels in files.items():
        split = "train" if "train" in file else "test"
        images = [{"bytes": made.jpeg(label, split), "path": None} for label in labels]
        others = [[0] * len(labels) for _ in more]
        table = pyarrow.table([images, *others, labels], schema=pyarrow.schema(fields, metadata=metadata))
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, row_group_size=7)
        made.file(file, buffer.getvalue())
    return made


TREES: dict[str, Callable[[Path], Published]] = {
    "imagenet": imagenet,
    "imagenetv2": imagenetv2,
    "cifar10": cifar10,
    "cifar10.1": cifar10_1,
    "cifar100": cifar100,
    "cub200": cub200,
    "flowers102": flowers102,
    "cars": cars,
}
