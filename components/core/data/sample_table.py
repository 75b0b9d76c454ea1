"""What build_shards writes of every sample of its shards: one table, in the order of the samples."""

import io
from collections.abc import Sequence
from typing import Protocol

import pyarrow
import pyarrow.parquet

SAMPLES_NAME = "samples.parquet"


class Files(Protocol):
    """A place that gives bytes for names."""

    def read(self, name: str) -> bytes: ...


def read_sample_table(folder: Files, columns: Sequence[str]) -> pyarrow.Table:
    """Returns columns of a folder's table, such as `sha256` of the pixels, `dhash` and `split`.

    Raises:
        FileNotFoundError: The folder has no table.
    """
    return pyarrow.parquet.read_table(io.BytesIO(folder.read(SAMPLES_NAME)), columns=list(columns))
