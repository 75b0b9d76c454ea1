"""Tars of somebody else's, as img2dataset and webdataset write them: `{key}.jpg`, `.txt`, `.json`, perhaps `.cls`."""

import collections
import json
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from typing import Any

from components.build_shards.source import Item, Raw
from components.core.data.tar import IMAGE_EXTENSIONS, group_members
from components.core.data.tar_members import DamagedArchive, read_members
from components.runtime.storage import Folder

SUFFIX = ".tar"


class TarSource:
    """The tars below a folder, an item each; the members of a sample are neighbours, as WebDataset has it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def items(self) -> list[Item]:
        """Returns the tars by name."""
        return [Item(name, {"name": name}) for name in self.folder.names() if name.endswith(SUFFIX)]

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields a tar's samples as they stream by.

        A sample with a member that is no plain file below the folder is an `unsafe_member`, one whose key came before
        in this tar a `duplicate`, one without a picture `unpaired`. Where a tar is damaged, the whole members before
        are kept, and what follows counts once, as `truncated_shard`.
        """
        times: collections.Counter[str] = collections.Counter()
        damage: list[DamagedArchive] = []
        with self.folder.open(item.spec["name"]) as file:
            for key, members in group_members(_whole_members(file, damage)):
                times[key] += 1
                name = f"{item.name}/{key}" + (f"#{times[key]}" if times[key] > 1 else "")
                yield _raw(name, key, members, is_duplicate=times[key] > 1)
        if damage:
            yield Raw(item.name, reject="truncated_shard")


def _whole_members(file: BufferedIOBase, damage: list[DamagedArchive]) -> Iterator[tuple[str, bytes | None]]:
    """Yields members to the end or to the damage, which it adds to the list."""
    try:
        yield from read_members(file)
    except DamagedArchive as error:
        damage.append(error)


def _raw(name: str, key: str, members: Mapping[str, bytes | None], *, is_duplicate: bool) -> Raw:
    files = {extension: data for extension, data in members.items() if data is not None}
    images = [files[extension] for extension in IMAGE_EXTENSIONS if extension in files]
    if len(files) < len(members):
        return Raw(name, key=key, reject="unsafe_member")
    if is_duplicate:
        return Raw(name, key=key, reject="duplicate")
    if not images:
        return Raw(name, key=key, reject="unpaired")
    facts = _facts(files.get("json", b""))
    return Raw(
        name,
        image=images[0],
        caption=files.get("txt", facts.get("caption")),
        category=files.get("cls", b"").decode(errors="backslashreplace").strip(),
        url=facts.get("url", ""),
        key=key,
    )


def _facts(data: bytes) -> dict[str, str]:
    """Returns the texts that stand in a sample's JSON; none if it can't be read."""
    try:
        facts: Any = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return {name: text for name, text in facts.items() if isinstance(text, str)} if isinstance(facts, dict) else {}
