"""A folder of pictures: captions lie beside them in `.txt` files, the topmost folder is the class."""

import collections
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

from components.build_shards.source import Item, Raw
from components.core.data.ingest import PICTURE_SUFFIXES
from components.runtime.errors import BadInput
from components.runtime.storage import Folder

CAPTION_SUFFIX = ".txt"
CHUNK = 256
READERS = 8  # small objects wait for the store, not for the processor
READ_AHEAD = 2 * READERS

Given = TypeVar("Given")
Found = TypeVar("Found")

Input = tuple[str, str]
"""The name of a picture and of its caption, empty where it has none; or of a caption that belongs to no picture."""


class FolderSource:
    """Pictures below a folder, in chunks that mix the classes by a fixed order, that of the names' hashes."""

    def __init__(self, folder: Folder, *, needs_caption: bool) -> None:
        self.folder, self.needs_caption = folder, needs_caption

    def items(self) -> list[Item]:
        """Returns chunks of names.

        Raises:
            BadInput: There is no picture.
        """
        inputs = sorted(pair_up(self.folder.names()), key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
        if not any(_is_picture(name) for name, _ in inputs):
            raise BadInput(
                f"--source_uri={self.folder.uri} holds no pictures: expected files ending in "
                f"{', '.join(PICTURE_SUFFIXES)}, each with a {CAPTION_SUFFIX} caption beside it."
            )
        chunks = [inputs[start : start + CHUNK] for start in range(0, len(inputs), CHUNK)]
        return [
            Item(f"{number:06d}", {"inputs": [list(pair) for pair in chunk]}, len(chunk))
            for number, chunk in enumerate(chunks)
        ]

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields the pictures of a chunk, read a little ahead."""
        return read_ahead(self._raw, [(name, caption_name) for name, caption_name in item.spec["inputs"]])

    def _raw(self, pair: Input) -> Raw:
        name, caption_name = pair
        category = category_of(name)
        if not _is_picture(name) or (self.needs_caption and not caption_name):
            return Raw(name, category=category, reject="unpaired")
        try:
            caption = self.folder.read(caption_name) if caption_name else None
            return Raw(name, self.folder.read(name), caption, category)
        except (FileNotFoundError, PermissionError):
            return Raw(name, category=category, reject="unreadable")


def pair_up(names: Iterable[str]) -> list[Input]:
    """Returns each picture with its caption, and each caption that lies beside no file of its name.

    A caption beside a file that isn't read, an SVG for instance, is passed over with it.
    """
    found = set(names)
    stems = {_stem(name) for name in found if not name.endswith(CAPTION_SUFFIX)}
    captions = {_stem(name): name for name in found if name.endswith(CAPTION_SUFFIX)}
    pictures = [(name, captions.get(_stem(name), "")) for name in found if _is_picture(name)]
    return pictures + [(name, "") for stem, name in captions.items() if stem not in stems]


def category_of(name: str) -> str:
    """Returns the topmost folder of a name, empty where there is none."""
    top, slash, _ = name.partition("/")
    return top if slash else ""


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def read_ahead(read: Callable[[Given], Found], inputs: Iterable[Given]) -> Iterator[Found]:
    """Yields read(input) in order, with READ_AHEAD of them under way or waiting."""
    waiting: collections.deque[Future[Found]] = collections.deque()
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="pictures")
    try:
        for given in inputs:
            waiting.append(pool.submit(read, given))
            if len(waiting) == READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
