"""CUB-200-2011, Oxford Flowers-102 and Stanford Cars as published: pictures, and files that list classes and splits."""

import itertools
from collections.abc import Iterator

import numpy

from components.build_shards.labelled_listing import Listing, Tree, of_files
from components.build_shards.matlab import numbers_of, records_of, variable

_FLOWER_SPLITS = (("trnid", False), ("valid", False), ("tstid", True))
_CAR_SPLITS = (("cars_train", "cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat"))


def cub200(tree: Tree) -> Listing:
    """Returns the pictures in the order of images.txt, split by train_test_split.txt, where 1 is the train split."""
    top = tree.find("images.txt").removesuffix("images.txt")
    pictures = tree.table("images.txt")
    columns = (_values(tree, file, pictures) for file in ("image_class_labels.txt", "train_test_split.txt"))
    classes = tree.table("classes.txt")
    for number, (given, name) in enumerate(classes, start=1):
        if given != str(number):
            raise tree.odd(f"has a classes.txt that calls {name} class {given} where {number} comes next")
    names = [name.partition(".")[2] or name for _, name in classes]
    return of_files(
        tree,
        names,
        (
            (f"{top}images/{name}", label - 1, is_train == 0)
            for (_, name), label, is_train in zip(pictures, *columns, strict=True)
        ),
    )


def _values(tree: Tree, file: str, pictures: list[tuple[str, str]]) -> Iterator[int]:
    """Yields the second column of a file whose first one is that of images.txt."""
    rows = tree.table(file)
    for (number, name), (given, value) in itertools.zip_longest(pictures, rows, fillvalue=("nothing", "")):
        if number != given or not value.isdecimal():
            raise tree.odd(f"has a {file} with '{given} {value}' where images.txt has '{number} {name}'")
        yield int(value)


def flowers102(tree: Tree) -> Listing:
    """Returns the flowers by number; `trnid` and `valid` of setid.mat are the train split, `tstid` the test split.

    The test split is the larger one, 6,149 of 8,189. Some codes swap `trnid` and `tstid`; their results are of another
    protocol.
    """
    labels = numbers_of(tree, "imagelabels.mat", "labels")
    top = tree.find("imagelabels.mat").removesuffix("imagelabels.mat")
    is_test_of: dict[int, bool] = {}
    for split, is_test in _FLOWER_SPLITS:
        for number in numbers_of(tree, "setid.mat", split).tolist():
            if number in is_test_of or not 1 <= number <= len(labels):
                raise tree.odd(f"has a setid.mat whose `{split}` has {number}, which is in it twice or has no label")
            is_test_of[number] = is_test
    if len(is_test_of) < len(labels):
        number = next(n for n in range(1, len(labels) + 1) if n not in is_test_of)
        raise tree.odd(f"has a setid.mat without picture {number}, which imagelabels.mat has")
    numbers = [str(number) for number in range(1, int(labels.max()) + 1)]
    return of_files(
        tree,
        numbers,
        (
            (f"{top}jpg/image_{number:05d}.jpg", int(labels[number - 1]) - 1, is_test_of[number])
            for number in range(1, len(labels) + 1)
        ),
    )


def cars(tree: Tree) -> Listing:
    """Returns the train pictures, then the test pictures, whose labels were published later in a file of their own."""
    names = [str(name) for name in numpy.atleast_1d(variable(tree, "cars_meta.mat", "class_names"))]
    by_tail = {"/".join(name.split("/")[-2:]): name for name in reversed(tree.names)}
    pictures = [
        (by_tail.get(tail := f"{folder}/{record['fname']}", tail), int(record["class"]) - 1, folder == "cars_test")
        for folder, file in _CAR_SPLITS
        for record in records_of(tree, file, "annotations", ("fname", "class"))
    ]
    return of_files(tree, names, pictures)
