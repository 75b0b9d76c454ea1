"""Any of the sets as Hugging Face has it: `train-*.parquet`, `test-*.parquet`, with pictures and numbers of classes."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from components.build_shards.labelled_listing import Listing, Tree
from components.build_shards.parquet_columns import Columns
from components.build_shards.parquet_rows import ROWS_PER_SPAN, Span, open_row_group, spans_of
from components.build_shards.parquet_source import FOOTER_READERS, PARQUET_SUFFIX
from components.runtime.storage import Folder

ROWS = "rows"
_SPLIT = re.compile(r"(?:^|[/_-])(train|validation|valid|val|test)(?=[-_./])")
_VALIDATION = ("validation", "valid", "val")


def parquet(tree: Tree, *, is_test_only: bool, num_named: int) -> Listing:
    """Returns the rows of the splits that count.

    Of ImageNet, `validation` is the test split, because `test` has no labels. Of the other sets `test` is, and
    `validation` belongs to the train split. All rows of a set without a train split are to test on.

    Args:
        tree: The folder.
        is_test_only: The set has no train split.
        num_named: So many classes have names that needn't stand in the files.
    """
    files = [name for name in tree.names if name.endswith(PARQUET_SUFFIX)]
    split_of = {file: _split(tree, file, is_test_only) for file in files}
    used = sorted((file for file in files if split_of[file]), key=lambda file: (split_of[file] == "test", file))
    for split in ("test",) if is_test_only else ("train", "test"):
        if split not in split_of.values():
            raise tree.odd(f"has parquet files, but none of the {split} split (they are {', '.join(files)})")
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        tables = list(pool.map(lambda file: _read_labels(tree, file), used))
    sizes = [len(table.labels_N) for table in tables]
    spans = [span for table in tables for span in table.spans]
    return Listing(
        classes=_same_classes(tree, used, [table.class_names for table in tables], num_named),
        names=[f"{file}:{n}" for file, size in zip(used, sizes, strict=True) for n in range(size)],
        labels_N=numpy.concatenate([table.labels_N for table in tables]),
        is_test_N=numpy.repeat([split_of[file] == "test" for file in used], sizes),
        place_N=numpy.repeat(range(len(spans)), [span.stop - span.start for span in spans]),
        places=[{"kind": ROWS} | dataclasses.asdict(span) for span in spans],
        pictures_per_item=ROWS_PER_SPAN,
    )


def _split(tree: Tree, file: str, is_test_only: bool) -> str:
    """Returns `train`, `test`, or nothing for a file that isn't used; the name says which."""
    if is_test_only:
        return "test"
    found = _SPLIT.findall(file)
    split = found[-1] if found else ""
    if tree.labelled_set == "imagenet":
        return {"train": "train", "test": ""}.get(split, "test" if split in _VALIDATION else "")
    return "train" if split in _VALIDATION else split


@dataclass(frozen=True)
class _Labels:
    """What is read of a file before its pictures."""

    spans: Sequence[Span]
    class_names: Sequence[str]
    labels_N: NDArray[numpy.int64]


def _read_labels(tree: Tree, file: str) -> _Labels:
    spans = spans_of(tree.folder, file)
    with tree.folder.open(file) as opened:
        reader = pyarrow.parquet.ParquetFile(opened)
        columns = Columns.of(reader.schema_arrow, f"{tree.folder.uri}/{file}")
        kind = reader.schema_arrow.field(columns.category).type if columns.category else None
        if not columns.image or kind is None or not pyarrow.types.is_integer(kind):
            raise tree.odd(f"has a {file} without a column of pictures, or without one of class numbers called `label`")
        try:
            labels = reader.read(columns=[columns.category])[columns.category].fill_null(-1)
        except (pyarrow.ArrowException, OSError) as error:
            raise tree.odd(f"has a {file} whose labels can't be read ({error})") from error
    return _Labels(spans, columns.class_names, labels.to_numpy().astype(numpy.int64))


def _same_classes(tree: Tree, files: Sequence[str], names: Sequence[Sequence[str]], num_named: int) -> Sequence[str]:
    """Returns the class names, which are the same in every file; numbers where the files have none."""
    for file, found in zip(files, names, strict=True):
        for number, (name, first) in enumerate(itertools.zip_longest(found, names[0], fillvalue="nothing")):
            if name != first:
                raise tree.odd(f"calls class {number} '{name}' in {file} and '{first}' in {files[0]}")
    if not names[0] and not num_named:
        raise tree.odd(f"has a {files[0]} whose metadata have no names of classes")
    return names[0] or [str(number) for number in range(num_named)]


def read_rows(folder: Folder, place: dict[str, Any], names: Sequence[str]) -> Iterator[bytes | None]:
    """Yields the pictures of rows of a span, in its order; None for one that can't be read."""
    span = Span(**{name: value for name, value in place.items() if name != "kind"})
    wanted = {int(name.rpartition(":")[2]) - span.first_row for name in names}
    with open_row_group(folder, span) as group:
        for number, cells in enumerate(group.rows(span.start, span.stop)):
            if number in wanted:
                yield None if cells is None else group.columns.raw("", cells).image or None
