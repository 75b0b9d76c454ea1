"""Spans of rows from parquet files: spans that follow one another in a row group cost one pass over it."""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from components.build_shards.parquet_columns import Cells, Columns
from components.runtime.errors import BadInput
from components.runtime.storage import Folder

ROWS_PER_SPAN = 1000
ROWS_PER_BATCH = 100  # divides ROWS_PER_SPAN, so that a pass goes on where a span ends
BUFFER_BYTES = 1 << 20  # pages come in such pieces; without them a column of a whole row group would be in memory


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a row group; the first of them is row `first_row` of the file."""

    file: str
    row_group: int
    start: int
    stop: int
    first_row: int


def spans_of(folder: Folder, file: str) -> list[Span]:
    """Returns the spans of a file, from its footer.

    Raises:
        BadInput: It can't be read, or has neither pictures nor URLs.
    """
    with folder.open(file) as opened:
        metadata = _parse(opened, f"{folder.uri}/{file}")[0].metadata
    spans = []
    group_start = 0
    for group in range(metadata.num_row_groups):
        num_rows = metadata.row_group(group).num_rows
        for start in range(0, num_rows, ROWS_PER_SPAN):
            spans.append(Span(file, group, start, min(start + ROWS_PER_SPAN, num_rows), group_start + start))
        group_start += num_rows
    return spans


class RowGroup:
    """One pass over the rows of a row group."""

    def __init__(self, folder: Folder, file: str, number: int) -> None:
        self.place = _place(folder, file, number)
        self.position = 0
        self._file = folder.open(file)
        parquet, self.columns = _parse(self._file, f"{folder.uri}/{file}")
        self._batches = parquet.iter_batches(
            ROWS_PER_BATCH, row_groups=[number], columns=self.columns.names(), use_threads=False
        )

    def rows(self, start: int, stop: int) -> Iterator[Cells | None]:
        """Yields rows, none of them behind `position`; None for each from where the file is damaged on."""
        while self.position < stop:
            batch = self._next_batch()
            if batch is None:
                yield from [None] * (stop - max(start, self.position))
                self.position = stop
                return
            first, self.position = self.position, self.position + batch.num_rows
            if self.position > start:
                yield from batch[max(0, start - first) : stop - first].to_pylist()

    def close(self) -> None:
        """Ends the pass."""
        self._file.close()

    def _next_batch(self) -> pyarrow.RecordBatch | None:
        try:
            return next(self._batches, None)
        except (pyarrow.ArrowException, OSError):  # what pyarrow raises for damaged pages; S3's faults are neither
            return None


_resting: dict[int, RowGroup] = {}
"""The pass with which each process ended its last span, by process: a fork must not share an open file."""


@contextlib.contextmanager
def open_row_group(folder: Folder, span: Span) -> Iterator[RowGroup]:
    """Gives the row group of a span, at or before its start: where the last span left it, or from its beginning."""
    group = _resting.pop(os.getpid(), None)
    if group and (group.place != _place(folder, span.file, span.row_group) or group.position > span.start):
        group.close()
        group = None
    group = group or RowGroup(folder, span.file, span.row_group)
    try:
        yield group
    except BaseException:
        group.close()
        raise
    _resting[os.getpid()] = group


def _place(folder: Folder, file: str, row_group: int) -> tuple[str, str, int]:
    return folder.uri, file, row_group


def _parse(file: io.BufferedIOBase, address: str) -> tuple[Any, Columns]:
    """Returns pyarrow's reader of an open file, and the columns that matter."""
    try:
        parquet = pyarrow.parquet.ParquetFile(
            file, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(
            f"{address} can't be read as parquet ({error}): mend it, or take it out of the source."
        ) from error
    return parquet, Columns.of(parquet.schema_arrow, address)
