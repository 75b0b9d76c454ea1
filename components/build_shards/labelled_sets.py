"""The published labelled sets that encoders are probed on, each as its authors laid it out.

Nothing of their official test splits is left out, so that every number is over the n that other papers have.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow

from components.build_shards import annotated_layouts, imagenet_layouts, parquet_layout, pixel_layouts
from components.build_shards.labelled_listing import FILES, Listing, Tree, check, chosen, items_of, read_files
from components.build_shards.parquet_source import PARQUET_SUFFIX
from components.build_shards.source import Item, Raw
from components.core.data import class_names
from components.runtime.errors import BadInput
from components.runtime.storage import Folder

READERS = {
    FILES: read_files,
    pixel_layouts.RECORDS: pixel_layouts.read_records,
    parquet_layout.ROWS: parquet_layout.read_rows,
}
_NUMBER = re.compile(r"\d+|n\d{8}")


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """A set as it was published.

    Attributes:
        layout: Its files, in words.
        splits: Where its two splits come from, in words.
        num_classes, num_train, num_test: Their published numbers; nothing is refused for having others.
        listing: Lists what a folder of that layout holds.
        names: The classes' names where the files only have numbers.
        is_renamed: Whether these names are used even where the files have some.
    """

    layout: str
    splits: str
    num_classes: int
    num_train: int
    num_test: int
    listing: Callable[[Tree], Listing]
    names: Callable[[], Sequence[str]] | None = None
    is_renamed: bool = False


SETS = {
    "imagenet": LabelledSet(
        layout="`train/<WordNet id>/*.JPEG` and `val/<WordNet id>/*.JPEG`, or `val/*.JPEG` with `LOC_val_solution.csv` "
        "or the development kit's `ILSVRC2012_validation_ground_truth.txt` and `meta.mat`",
        splits="`train` to train on, `val` to test on",
        num_classes=1000,
        num_train=1_281_167,
        num_test=50_000,
        listing=imagenet_layouts.imagenet,
        names=class_names.imagenet,
        is_renamed=True,
    ),
    "imagenetv2": LabelledSet(
        layout="`imagenetv2-matched-frequency-format-val/<0 to 999>/*.jpeg`",
        splits="all to test on",
        num_classes=1000,
        num_train=0,
        num_test=10_000,
        listing=imagenet_layouts.imagenetv2,
        names=class_names.imagenet,
        is_renamed=True,
    ),
    "cifar10": LabelledSet(
        layout="the binary version: `data_batch_<1 to 5>.bin`, `test_batch.bin`, `batches.meta.txt`",
        splits="`data_batch_*` to train on, `test_batch` to test on",
        num_classes=10,
        num_train=50_000,
        num_test=10_000,
        listing=pixel_layouts.cifar10,
    ),
    "cifar10.1": LabelledSet(
        layout="`cifar10.1_v6_data.npy` and `cifar10.1_v6_labels.npy`",
        splits="all to test on",
        num_classes=10,
        num_train=0,
        num_test=2_000,
        listing=pixel_layouts.cifar10_1,
        names=lambda: class_names.CIFAR10,
    ),
    "cifar100": LabelledSet(
        layout="the binary version: `train.bin`, `test.bin`, `fine_label_names.txt`",
        splits="`train` to train on, `test` to test on",
        num_classes=100,
        num_train=50_000,
        num_test=10_000,
        listing=pixel_layouts.cifar100,
    ),
    "cub200": LabelledSet(
        layout="`images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt`, `images/`",
        splits="`train_test_split.txt`: 1 to train on, 0 to test on",
        num_classes=200,
        num_train=5_994,
        num_test=5_794,
        listing=annotated_layouts.cub200,
    ),
    "flowers102": LabelledSet(
        layout="`jpg/image_<number>.jpg`, `imagelabels.mat`, `setid.mat`",
        splits="`setid.mat`: `trnid` and `valid` to train on, `tstid` to test on",
        num_classes=102,
        num_train=2_040,
        num_test=6_149,
        listing=annotated_layouts.flowers102,
        names=lambda: class_names.FLOWERS102,
    ),
    "cars": LabelledSet(
        layout="`cars_train/`, `cars_test/`, `cars_meta.mat`, `cars_train_annos.mat`, `cars_test_annos_withlabels.mat`",
        splits="`cars_train` to train on, `cars_test` to test on",
        num_classes=196,
        num_train=8_144,
        num_test=8_041,
        listing=annotated_layouts.cars,
    ),
}


class LabelledSource:
    """The pictures of a published set, with its own labels and splits.

    Args:
        folder: The set as somebody unpacked it, or Hugging Face's parquet of it.
        labelled_set: One of `SETS`.
        num_samples: Most pictures to keep; only the train split is cut.
        seed: Which pictures a cut keeps.
    """

    def __init__(self, folder: Folder, labelled_set: str, num_samples: int, seed: int) -> None:
        self.folder, self.labelled_set, self.num_samples, self.seed = folder, labelled_set, num_samples, seed

    def items(self) -> list[Item]:
        """Returns parts of the set, both splits mixed.

        Raises:
            BadInput: A file is missing or odd, or the labels are.
        """
        known = SETS[self.labelled_set]
        tree = Tree(self.folder, self.folder.names(), self.labelled_set, known.layout)
        listing = _listing(tree, known)
        for split, num_published, has_some in (
            ("train", known.num_train, not listing.is_test_N.all()),
            ("test", known.num_test, listing.is_test_N.any()),
        ):
            if num_published and not has_some:
                raise tree.odd(f"has no pictures of the {split} split")
        check(listing, tree)
        numbers = chosen(listing, self.num_samples, self.seed, self.labelled_set)
        return items_of(listing, self._names(listing.classes), numbers)

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields the pictures of an item."""
        spec = item.spec
        pictures = READERS[spec["place"]["kind"]](self.folder, spec["place"], spec["names"])
        columns = (spec[column] for column in ("names", "numbers", "labels", "is_test"))
        for name, number, label, is_test, picture in zip(*columns, pictures, strict=True):
            yield Raw(
                name,
                image=picture or b"",
                category=spec["classes"][str(label)],
                key=f"{number:07d}",
                label=label,
                split="test" if is_test else "train",
                reject="" if picture else "unreadable",
            )

    def _names(self, found: Sequence[str]) -> Sequence[str]:
        """Returns the classes' names to read: known ones for numbers, and spaces for underscores."""
        known = SETS[self.labelled_set]
        is_numbered = all(_NUMBER.fullmatch(name) for name in found)
        if known.names and len(found) == known.num_classes and (is_numbered or known.is_renamed):
            try:
                return known.names()
            except ModuleNotFoundError as error:
                raise BadInput(
                    f"--labelled_set={self.labelled_set} takes the names of its classes from open_clip, which isn't "
                    "installed here: install open_clip_torch (pip's --no-deps is enough)."
                ) from error
        return [name.replace("_", " ") for name in found]


def _listing(tree: Tree, known: LabelledSet) -> Listing:
    if any(name.endswith(PARQUET_SUFFIX) for name in tree.names):
        num_named = known.num_classes if known.names else 0
        return parquet_layout.parquet(tree, is_test_only=not known.num_train, num_named=num_named)
    return known.listing(tree)


def classes_of(rows: pyarrow.Table) -> list[str]:
    """Returns the names of the classes in the order of the labels, from the rows of a whole set."""
    pairs = rows.select(["label", "category"]).group_by(["label", "category"]).aggregate([]).to_pylist()
    return [pair["category"] for pair in sorted(pairs, key=lambda pair: pair["label"])]
