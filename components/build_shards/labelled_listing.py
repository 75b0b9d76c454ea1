# N pictures of the set.
"""The pictures of a published labelled set, listed before any is read: whose class is known, and whose split."""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from components.build_shards.folder_source import read_ahead
from components.build_shards.source import Item
from components.runtime.errors import BadInput
from components.runtime.storage import Folder

FILES = "files"
FILES_PER_ITEM = 256
_WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Tree:
    """The folder of a set as somebody unpacked it.

    Attributes:
        names: Of all its files, sorted.
        labelled_set: The set that it should be.
        layout: What files it should have, for whoever has others.
    """

    folder: Folder
    names: list[str]
    labelled_set: str
    layout: str

    def find(self, file: str) -> str:
        """Returns where a file lies, in the folder or below; nearest to its top, if there are several.

        Raises:
            BadInput: There is none.
        """
        if not (found := self.found(file)):
            raise self.odd(f"holds no {file}")
        return found

    def found(self, file: str) -> str:
        """Returns where a file lies, or nothing."""
        places = [name for name in self.names if name == file or name.endswith(f"/{file}")]
        return min(places, key=lambda name: (name.count("/"), name), default="")

    def lines(self, file: str) -> list[str]:
        """Returns the lines of a text that aren't blank."""
        name = self.find(file)
        try:
            text = self.folder.read(name).decode()
        except UnicodeDecodeError as error:
            raise self.odd(f"has a {name} that is no text ({error})") from error
        return [line.strip() for line in text.splitlines() if line.strip()]

    def table(self, file: str) -> list[tuple[str, str]]:
        """Returns a text of two columns, the second of which may hold spaces."""
        rows = []
        for number, line in enumerate(self.lines(file), start=1):
            first, space, second = line.partition(" ")
            if not space:
                raise self.odd(f"has a {file} whose line {number} is '{line}' instead of two columns")
            rows.append((first, second.strip()))
        return rows

    def odd(self, what: str) -> BadInput:
        """Returns the refusal of a folder that has something odd, with what it should be."""
        return BadInput(
            f"--source_uri={self.folder.uri} {what}: --labelled_set={self.labelled_set} is {self.layout}, as "
            "published, or Hugging Face's parquet of it."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """All pictures of a set in its published order.

    Attributes:
        classes: Names or numbers in the order of the labels; two may be equal.
        names: Unique in the set; with its place, a name says where a picture is.
        labels_N: Class of each, from 0.
        is_test_N: Whether each is of the official test split.
        place_N: Number of each one's place; those of a place follow one another.
        places: JSON of what a reader has to know beside the names; `kind` says which reader.
        pictures_per_item: So many are read by one worker at a time.
    """

    classes: Sequence[str]
    names: list[str]
    labels_N: NDArray[numpy.int64]
    is_test_N: NDArray[numpy.bool_]
    place_N: NDArray[numpy.int64]
    places: list[dict[str, Any]]
    pictures_per_item: int


def of_files(tree: Tree, classes: Sequence[str], pictures: Iterable[tuple[str, int, bool]]) -> Listing:
    """Returns the listing of pictures that are files, each given by name, label and whether it is of the test split.

    Raises:
        BadInput: A file isn't there.
    """
    names, labels, is_test = (list(column) for column in zip(*pictures, strict=True))
    if missing := sorted(set(names) - set(tree.names)):
        raise tree.odd(f"lacks {len(missing)} of {len(names)} pictures, {missing[0]} among them")
    return Listing(
        classes=classes,
        names=names,
        labels_N=numpy.array(labels),
        is_test_N=numpy.array(is_test),
        place_N=numpy.zeros(len(names), dtype=numpy.int64),
        places=[{"kind": FILES}],
        pictures_per_item=FILES_PER_ITEM,
    )


def read_files(folder: Folder, place: dict[str, Any], names: Sequence[str]) -> Iterator[bytes | None]:
    """Yields files, a little ahead; None for one that can't be read."""
    return read_ahead(functools.partial(_read_or_none, folder), names)


def _read_or_none(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except (FileNotFoundError, PermissionError):
        return None


def check(listing: Listing, tree: Tree) -> None:
    """Refuses labels that aren't 0 to C - 1, classes without pictures, and class names in the order of text.

    Raises:
        BadInput: With the first difference.
    """
    classes, labels_N = listing.classes, listing.labels_N
    if len(classes) < 2:
        raise tree.odd(f"has {len(classes)} classes, of which a probe needs two or more")
    outside = numpy.flatnonzero((labels_N < 0) | (labels_N >= len(classes)))
    if len(outside):
        first = outside[0]
        raise tree.odd(
            f"has a label {labels_N[first]} (counted from 0) of {listing.names[first]} where {len(classes)} classes "
            f"are named, 0 to {len(classes) - 1}"
        )
    empty = numpy.flatnonzero(numpy.bincount(labels_N, minlength=len(classes)) == 0)
    if len(empty):
        raise tree.odd(f"has no picture of class {empty[0]} (counted from 0), '{classes[empty[0]]}'")
    if all(name.isdecimal() for name in classes):
        expected = [str(int(classes[0]) + number) for number in range(len(classes))]
    elif all(_WORDNET_ID.fullmatch(name) for name in classes):
        expected = sorted(classes)
    else:
        return
    for number, (name, right) in enumerate(zip(classes, expected, strict=True)):
        if name != right:
            raise tree.odd(f"calls class {number} '{name}' where '{right}' comes next in the official order")


def chosen(listing: Listing, num_samples: int, seed: int, labelled_set: str) -> NDArray[numpy.int64]:
    """Returns the pictures to keep: the whole test split, and of the train split equally many of each class.

    What a smaller number keeps, a larger one keeps too.

    Raises:
        BadInput: The test split and one picture of each class to train on are more than `num_samples`.
    """
    train = numpy.flatnonzero(~listing.is_test_N)
    num_test = len(listing.names) - len(train)
    num_classes = len(numpy.unique(listing.labels_N[train]))
    if num_samples < num_test + num_classes:
        to_train_on = f", and one picture for each of {num_classes} classes to train on" if num_classes else ""
        raise BadInput(
            f"--num_samples={num_samples} is less than the {num_test} test pictures of {labelled_set}, which are never "
            f"cut{to_train_on}: give {num_test + num_classes} or more; {len(listing.names)} is all."
        )
    labels = listing.labels_N[train]
    digests = [hashlib.sha256(f"{seed} {listing.names[n]}".encode()).digest() for n in train]
    by_class = numpy.array(sorted(range(len(train)), key=lambda n: (labels[n], digests[n])), dtype=numpy.int64)
    starts = numpy.searchsorted(labels[by_class], labels[by_class])
    rank = numpy.empty(len(train), dtype=numpy.int64)
    rank[by_class] = numpy.arange(len(train)) - starts
    kept = train[numpy.lexsort((labels, rank))[: num_samples - num_test]]
    return numpy.sort(numpy.concatenate([numpy.flatnonzero(listing.is_test_N), kept]))


def items_of(listing: Listing, classes: Sequence[str], numbers: NDArray[numpy.int64]) -> list[Item]:
    """Returns the items that hold these pictures; splits are mixed, and where pictures are files, classes too.

    Whoever looks at the first pictures only then sees some of everything.
    """
    if listing.places[0]["kind"] == FILES:
        by_hash = sorted(numbers.tolist(), key=lambda n: hashlib.sha256(listing.names[n].encode()).digest())
        numbers = numpy.array(by_hash, dtype=numpy.int64)
    is_test, place = listing.is_test_N[numbers], listing.place_N[numbers]
    share = numpy.where(
        is_test, is_test.cumsum() / max(1, is_test.sum()), (~is_test).cumsum() / max(1, (~is_test).sum())
    )
    spans = []
    for _, run in itertools.groupby(range(len(numbers)), key=lambda n: place[n]):
        members = list(run)
        spans += [members[n : n + listing.pictures_per_item] for n in range(0, len(members), listing.pictures_per_item)]
    spans.sort(key=lambda members: float(share[members].mean()))
    return [_item(number, listing, classes, numbers[members]) for number, members in enumerate(spans)]


def _item(number: int, listing: Listing, classes: Sequence[str], members: NDArray[numpy.int64]) -> Item:
    labels = listing.labels_N[members].tolist()
    spec = {
        "place": listing.places[int(listing.place_N[members[0]])],
        "names": [listing.names[n] for n in members],
        "numbers": members.tolist(),
        "labels": labels,
        "is_test": listing.is_test_N[members].tolist(),
        "classes": {str(label): classes[label] for label in sorted(set(labels))},
    }
    return Item(f"{number:06d}", spec, len(members))
