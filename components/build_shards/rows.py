"""What is known of each input after it was read: one row, and the parquet in which an item's rows are kept."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow
import pyarrow.parquet

SCHEMA = pyarrow.schema(
    [
        ("name", pyarrow.string()),
        ("key", pyarrow.string()),
        ("url", pyarrow.string()),
        ("reason", pyarrow.dictionary(pyarrow.int16(), pyarrow.string())),
        ("sha256", pyarrow.binary(16)),
        ("dhash", pyarrow.uint64()),
        ("offset", pyarrow.int64()),
        ("length", pyarrow.int64()),
        ("extension", pyarrow.dictionary(pyarrow.int16(), pyarrow.string())),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("caption", pyarrow.string()),
        ("category", pyarrow.string()),
        ("label", pyarrow.int32()),
        ("split", pyarrow.dictionary(pyarrow.int16(), pyarrow.string())),
        ("facts", pyarrow.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One input after reading.

    Attributes:
        name, key, url, caption, category, label, split, facts: As in `Raw`, the caption cleaned.
        reason: Why it is left out; empty: it isn't.
        sha256: The first 16 bytes of its pixels' hash.
        dhash: Its perceptual hash.
        offset, length: Where its bytes lie in the item's part.
        extension: `jpg` or `png`.
        width, height: In pixels, as stored.
    """

    name: str
    key: str = ""
    url: str = ""
    reason: str = ""
    sha256: bytes = bytes(16)
    dhash: int = 0
    offset: int = 0
    length: int = 0
    extension: str = ""
    width: int = 0
    height: int = 0
    caption: str = ""
    category: str = ""
    label: int = -1
    split: str = ""
    facts: str = ""


def encode(rows: Sequence[Row], facts: dict[str, str]) -> bytes:
    """Returns the rows as parquet, with `facts` in its metadata."""
    columns = [asdict(row) for row in rows]
    table = pyarrow.Table.from_pylist(columns, schema=SCHEMA.with_metadata(facts))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def decode(data: bytes) -> tuple[pyarrow.Table, dict[str, str]]:
    """Returns the rows and facts of `encode`."""
    table = pyarrow.parquet.read_table(io.BytesIO(data), schema=SCHEMA)
    metadata = pyarrow.parquet.read_schema(io.BytesIO(data)).metadata or {}
    return table.unify_dictionaries(), {k.decode(): v.decode() for k, v in metadata.items() if k != b"ARROW:schema"}
