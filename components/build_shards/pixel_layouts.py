# N pictures, H height, W width, 3 channels.
"""CIFAR-10, CIFAR-100 and CIFAR-10.1 as published: pixels one after the other, in the versions without pickles."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from components.build_shards.labelled_listing import Listing, Tree
from components.core.data import class_names
from components.core.data.ingest import encode_png
from components.runtime.storage import Folder

SIDE_PX = 32
PIXEL_BYTES = 3 * SIDE_PX**2
RECORDS = "records"
RECORDS_PER_ITEM = 1000
_HEADERS = {
    (1, 0): numpy.lib.format.read_array_header_1_0,
    (2, 0): numpy.lib.format.read_array_header_2_0,
}


def cifar10(tree: Tree) -> Listing:
    """Returns the pictures of the five training batches, then of the test batch; a byte of label before each."""
    files = [(f"data_batch_{number}.bin", False) for number in range(1, 6)] + [("test_batch.bin", True)]
    return _cifar(tree, files, "batches.meta.txt", label_bytes=1)


def cifar100(tree: Tree) -> Listing:
    """Returns train.bin, then test.bin; before each picture a byte of coarse label and the one of fine label."""
    return _cifar(tree, [("train.bin", False), ("test.bin", True)], "fine_label_names.txt", label_bytes=2)


def _cifar(tree: Tree, files: Sequence[tuple[str, bool]], class_file: str, label_bytes: int) -> Listing:
    classes = tree.lines(class_file)
    places, labels, is_test = [], [], []
    for file, is_test_file in files:
        places.append(
            {"kind": RECORDS, "file": tree.find(file), "skip": label_bytes, "step": label_bytes + PIXEL_BYTES}
        )
        labels.append(_labels(tree, places[-1]))
        is_test.append(is_test_file)
    sizes = [len(found) for found in labels]
    return Listing(
        classes=classes,
        names=[f"{place['file']}:{n}" for place, size in zip(places, sizes, strict=True) for n in range(size)],
        labels_N=numpy.concatenate(labels),
        is_test_N=numpy.repeat(is_test, sizes),
        place_N=numpy.repeat(range(len(places)), sizes),
        places=[place | {"is_planar": True} for place in places],
        pictures_per_item=RECORDS_PER_ITEM,
    )


def _labels(tree: Tree, place: dict[str, Any]) -> NDArray[numpy.int64]:
    """Returns the last byte before each picture's pixels."""
    name, step = place["file"], place["step"]
    if tree.folder.size(name) % step:
        raise tree.odd(f"has a {name} of {tree.folder.size(name)} bytes, which is no multiple of {step}")
    labels = bytearray()
    with tree.folder.open(name) as file:
        while data := file.read(RECORDS_PER_ITEM * step):
            labels += data[place["skip"] - 1 :: step]
    return numpy.frombuffer(labels, dtype=numpy.uint8).astype(numpy.int64)


def cifar10_1(tree: Tree) -> Listing:
    """Returns the 2,000 pictures of version 6, all of them to test on, in CIFAR-10's classes."""
    name = tree.find("cifar10.1_v6_data.npy")
    label_name = tree.find("cifar10.1_v6_labels.npy")
    with tree.folder.open(name) as file:
        try:
            shape, is_fortran, dtype = _HEADERS[numpy.lib.format.read_magic(file)](file)
        except (ValueError, KeyError) as error:
            raise tree.odd(f"has a {name} that can't be read as NumPy's ({error})") from error
        skip = file.tell()
    if shape[1:] != (SIDE_PX, SIDE_PX, 3) or dtype != numpy.uint8 or is_fortran:
        raise tree.odd(f"has a {name} of shape {shape} and type {dtype} instead of N x 32 x 32 x 3 bytes")
    if tree.folder.size(name) != skip + shape[0] * PIXEL_BYTES:
        raise tree.odd(f"has a {name} of {tree.folder.size(name)} bytes where {skip + shape[0] * PIXEL_BYTES} belong")
    try:
        labels_N = numpy.load(io.BytesIO(tree.folder.read(label_name)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise tree.odd(f"has a {label_name} that can't be read as NumPy's ({error})") from error
    if labels_N.shape != shape[:1] or labels_N.dtype.kind not in "iu":
        raise tree.odd(
            f"has a {label_name} of shape {labels_N.shape} and type {labels_N.dtype} for {shape[0]} pictures"
        )
    return Listing(
        classes=class_names.CIFAR10,
        names=[f"{name}:{n}" for n in range(shape[0])],
        labels_N=labels_N.astype(numpy.int64),
        is_test_N=numpy.ones(shape[0], dtype=bool),
        place_N=numpy.zeros(shape[0], dtype=numpy.int64),
        places=[{"kind": RECORDS, "file": name, "skip": skip, "step": PIXEL_BYTES, "is_planar": False}],
        pictures_per_item=RECORDS_PER_ITEM,
    )


def read_records(folder: Folder, place: dict[str, Any], names: Sequence[str]) -> Iterator[bytes | None]:
    """Yields pictures as PNG; None where the file ends before."""
    with folder.open(place["file"]) as file:
        for name in names:
            file.seek(place["skip"] + int(name.rpartition(":")[2]) * place["step"])
            data = file.read(PIXEL_BYTES)
            yield _png(data, place["is_planar"]) if len(data) == PIXEL_BYTES else None


def _png(data: bytes, is_planar: bool) -> bytes:
    pixels = numpy.frombuffer(data, dtype=numpy.uint8)
    if is_planar:
        pixels_HW3 = pixels.reshape(3, SIDE_PX, SIDE_PX).transpose(1, 2, 0)
    else:
        pixels_HW3 = pixels.reshape(SIDE_PX, SIDE_PX, 3)
    return encode_png(Image.fromarray(numpy.ascontiguousarray(pixels_HW3)))
