"""ImageNet-1k and ImageNetV2 as published: a folder per class, or validation pictures with a list of their classes."""

import itertools
import re
from collections.abc import Iterator

from components.build_shards.labelled_listing import Listing, Tree, of_files
from components.build_shards.matlab import records_of

_TRAIN = re.compile(r"(?:.*/)?train/(n\d{8})/[^/.][^/]*\.jpeg", re.IGNORECASE)
_VALIDATION = re.compile(r"(?:.*/)?val/(?:(n\d{8})/)?([^/.][^/]*)\.jpeg", re.IGNORECASE)
_NUMBERED = re.compile(r"((?:.*/)?)(\d+)/[^/.][^/]*\.jpe?g", re.IGNORECASE)
SOLUTION, GROUND_TRUTH, META = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def imagenet(tree: Tree) -> Listing:
    """Returns the train split, and the validation split as the test split, because the test split has no labels.

    Classes are WordNet ids; sorted, they are in the official order.
    """
    train = [(name, match[1]) for name in tree.names if (match := _TRAIN.fullmatch(name))]
    if not train:
        raise tree.odd("holds no train/<WordNet id>/*.JPEG")
    classes = sorted({wordnet_id for _, wordnet_id in train})
    label_of = {wordnet_id: label for label, wordnet_id in enumerate(classes)}
    test = list(_validation(tree))
    if not test:
        raise tree.odd("holds no val/*.JPEG")
    for name, wordnet_id in test:
        if wordnet_id not in label_of:
            raise tree.odd(f"has {name} of class {wordnet_id}, which isn't in train/")
    return of_files(
        tree,
        classes,
        itertools.chain(
            ((name, label_of[wordnet_id], False) for name, wordnet_id in train),
            ((name, label_of[wordnet_id], True) for name, wordnet_id in test),
        ),
    )


def _validation(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yields the validation pictures with their WordNet ids: of their folders, or of the list that came with them."""
    found = [(name, match) for name in tree.names if (match := _VALIDATION.fullmatch(name))]
    is_flat = any(match[1] is None for _, match in found)
    solution = _solution(tree) if is_flat else {}
    for name, match in found:
        wordnet_id = match[1] or solution.get(match[2])
        if not wordnet_id:
            raise tree.odd(f"has no class for {name} in {SOLUTION if tree.found(SOLUTION) else GROUND_TRUTH}")
        yield name, wordnet_id


def _solution(tree: Tree) -> dict[str, str]:
    """Returns the WordNet id of each validation picture, from Kaggle's list or else the development kit's.

    The development kit counts classes in an order of its own, which its meta.mat translates.
    """
    if tree.found(SOLUTION):
        rows = (line.partition(",") for line in tree.lines(SOLUTION)[1:])
        return {stem: boxes.split()[0] for stem, _, boxes in rows if boxes.split()}
    if not tree.found(GROUND_TRUTH):
        raise tree.odd(f"holds val/*.JPEG in no folders of classes, and neither {SOLUTION} nor {GROUND_TRUTH}")
    synsets = records_of(tree, META, "synsets", ("ILSVRC2012_ID", "WNID"))
    wordnet_ids = {str(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    numbers = tree.lines(GROUND_TRUTH)
    return {f"ILSVRC2012_val_{n:08d}": wordnet_ids.get(number, "") for n, number in enumerate(numbers, start=1)}


def imagenetv2(tree: Tree) -> Listing:
    """Returns the pictures of one of its three test sets; a folder's name is the number of its class."""
    found = [(name, match) for name in tree.names if (match := _NUMBERED.fullmatch(name))]
    if not found:
        raise tree.odd("holds no <0 to 999>/*.jpeg")
    tops = sorted({match[1] for _, match in found})
    if len(tops) > 1:
        raise tree.odd(f"holds {len(tops)} sets ({', '.join(top.rstrip('/') for top in tops)}), of which one is wanted")
    found.sort(key=lambda pair: (int(pair[1][2]), pair[0]))
    classes = [str(label) for label in range(int(found[-1][1][2]) + 1)]
    return of_files(tree, classes, ((name, int(match[2]), True) for name, match in found))
