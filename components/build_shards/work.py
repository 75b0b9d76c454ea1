"""The folder in which items wait, half done, to be put together: a killed stage goes on from what lies in it.

plan.json               the items, written once: what is listed later may be something else
items/000012.parquet     the rows of an item; written once and last, so its presence means done
parts/000012-<any>.bin   its pictures, one after the other; the rows say where
shards/000003.json       sha256 and size of a finished shard
"""

import dataclasses
import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow

from components.build_shards import rows
from components.build_shards.rows import Row
from components.build_shards.source import Item, Raw, Source
from components.core.data.ingest import Limits, Reject, clean_caption, normalise
from components.runtime import metrics
from components.runtime.errors import StageFailure
from components.runtime.storage import Folder, open_folder


class Work:
    """What has been done of one stage's work, seen alike by every pod.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_work, (self.folder.uri,)

    def plan(self, list_items: Callable[[], list[Item]]) -> list[Item]:
        """Returns the items, listed by whoever comes first."""
        if not self.folder.exists("plan.json"):
            items = [dataclasses.asdict(item) for item in list_items()]
            self.folder.write_once("plan.json", json.dumps(items).encode())
        return [Item(**item) for item in self.folder.read_json("plan.json")]

    def finished_items(self) -> set[int]:
        """Returns the numbers of the items that are done."""
        return _numbers(self.folder.names("items/"))

    def finished_shards(self) -> set[int]:
        """Returns the numbers of the shards that are done."""
        return _numbers(self.folder.names("shards/"))

    def ingest(self, number: int, item: Item, source: Source, limits: Limits, needs_caption: bool) -> int:
        """Reads one item, stores its pictures and rows, and returns how many pictures are good."""
        part = f"parts/{number:06d}-{uuid.uuid4().hex[:8]}.bin"
        found: list[Row] = []
        with self.folder.writer(part) as file:
            for raw in source.read(item):
                row, data = _read(raw, limits, needs_caption, offset=file.tell())
                file.write(data)
                found.append(row)
        if item.num_inputs and len(found) != item.num_inputs:
            raise StageFailure(
                f"{item.name} gave {len(found)} inputs where {item.num_inputs} were listed: "
                "the source changed while it was read; delete the work folder and run again."
            )
        if not self.folder.write_once(f"items/{number:06d}.parquet", rows.encode(found, {"part": part})):
            self.folder.delete(part)  # another pod was first, and its rows name its own part
        return sum(not row.reason for row in found)

    def rows(self, number: int) -> tuple[pyarrow.Table, str]:
        """Returns the rows of a finished item, and the name of its part."""
        table, facts = rows.decode(self.folder.read(f"items/{number:06d}.parquet"))
        return table, facts["part"]

    def written_shard(self, number: int) -> dict[str, Any]:
        """Returns sha256, size in bytes and number of samples of a finished shard."""
        return self.folder.read_json(f"shards/{number:06d}.json")

    def finish_shard(self, number: int, facts: dict[str, Any]) -> None:
        """Records that a shard is written."""
        self.folder.write_json(f"shards/{number:06d}.json", facts)

    def pictures(self, part: str, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Yields the pictures at (offset, length) of a part, in ascending order."""
        with self.folder.open(part) as file:
            for offset, length in places:
                file.seek(offset)
                yield file.read(length)


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(name.partition("/")[2].partition(".")[0]) for name in names}


def _open_work(uri: str) -> Work:
    return Work(open_folder(uri))


def _read(raw: Raw, limits: Limits, needs_caption: bool, offset: int) -> tuple[Row, bytes]:
    """Returns what is known of an input, and its picture as stored; no bytes for one that is left out."""
    names = ("name", "key", "url", "category", "label", "split")
    about: dict[str, Any] = {name: getattr(raw, name) for name in names}
    try:
        if raw.reject:
            raise Reject(raw.reject)
        if needs_caption and raw.caption is None:
            raise Reject("unpaired")
        caption = "" if raw.caption is None else clean_caption(raw.caption, limits)
        stored = normalise(raw.image, limits)
    except Reject as reject:
        metrics.count("images_rejected", reason=reject.reason)
        return Row(**about, reason=reject.reason), b""
    metrics.count("images_read")
    row = Row(
        **about,
        sha256=bytes.fromhex(stored.sha256),
        dhash=stored.dhash,
        offset=offset,
        length=len(stored.data),
        extension=stored.extension,
        width=stored.width,
        height=stored.height,
        caption=caption,
        facts=raw.facts,
    )
    return row, stored.data
