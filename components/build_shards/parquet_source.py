"""Parquet files as a source: rows hold pictures, or the URLs from which they are downloaded."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from components.build_shards.download import DownloadSettings, Request, fetch_in_order
from components.build_shards.parquet_columns import Cells, Columns
from components.build_shards.parquet_rows import Span, open_row_group, spans_of
from components.build_shards.source import Item, Raw
from components.core.data.ingest import Reject
from components.runtime.errors import BadInput
from components.runtime.storage import Folder

PARQUET_SUFFIX = ".parquet"
FOOTER_READERS = 8


class ParquetSource:
    """The rows of all parquet files of a folder, at most 1,000 of them to an item; see `Columns` for what they hold."""

    def __init__(self, folder: Folder, downloads: DownloadSettings) -> None:
        self.folder, self.downloads = folder, downloads

    def items(self) -> list[Item]:
        """Returns spans of rows, listed from the files' footers.

        Raises:
            BadInput: There is no row, or a file can't be read or has neither pictures nor URLs.
        """
        files = [name for name in self.folder.names() if name.endswith(PARQUET_SUFFIX)]
        with ThreadPoolExecutor(FOOTER_READERS) as pool:
            spans = [span for found in pool.map(lambda file: spans_of(self.folder, file), files) for span in found]
        if not spans:
            raise BadInput(
                f"--source_uri={self.folder.uri} holds no rows in files ending in {PARQUET_SUFFIX}: expected tables "
                "with pictures or URLs."
            )
        return [Item(_row_name(span, 0), dataclasses.asdict(span), num_inputs=span.stop - span.start) for span in spans]

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields the rows of an item, with their pictures downloaded where they hold URLs.

        Rows that the file is too damaged to give are left out as `unreadable`.
        """
        span = Span(**item.spec)
        with open_row_group(self.folder, span) as group:
            columns = group.columns
            rows = ((_row_name(span, number), cells) for number, cells in enumerate(group.rows(span.start, span.stop)))
            if columns.image:
                for name, cells in rows:
                    yield _raw(columns, name, cells)
                return
            addresses = list(rows)
        yield from self._download(columns, addresses)

    def _download(self, columns: Columns, rows: Sequence[tuple[str, Cells | None]]) -> Iterator[Raw]:
        raws = [_raw(columns, name, cells) for name, cells in rows]
        requests = [
            Request(raw.url, (cells or {}).get(columns.sha256) or "")
            for raw, (_, cells) in zip(raws, rows, strict=True)
            if not raw.reject
        ]
        with contextlib.closing(fetch_in_order(requests, self.downloads)) as results:
            for raw in raws:
                yield raw if raw.reject else _with_picture(raw, next(results))


def _with_picture(raw: Raw, result: bytes | Reject) -> Raw:
    if isinstance(result, Reject):
        return dataclasses.replace(raw, reject=result.reason)
    return dataclasses.replace(raw, image=result)


def _row_name(span: Span, number: int) -> str:
    return f"{span.file}:{span.first_row + number}"


def _raw(columns: Columns, name: str, cells: Cells | None) -> Raw:
    return Raw(name, reject="unreadable") if cells is None else columns.raw(name, cells)
