"""Writing and reading a shard, beside webdataset."""

import io
import random
from collections.abc import Callable
from typing import Any

import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from components.core.data.tar import read_shard, write_shard
from tests.bench.measure import Contender, NotEqual, compare_pair

REPEATS = 5


def rows() -> None:
    """Prints both rows, once both sides have read the same out of both archives."""
    samples = _samples()
    expected = [members for _, members in samples]
    for archive in (write_shard(samples), _written_by_webdataset(samples)):
        theirs = [{name: sample[name] for name in expected[0]} for sample in _read_by_webdataset(archive)]
        if not expected == theirs == [members for _, members in read_shard(archive)]:
            raise NotEqual("the two archives don't hold the same members")
    for verb, peer in (("write", "webdataset TarWriter"), ("read", "webdataset iterator")):
        name = __name__
        compare_pair(f"tar {verb}", Contender("ours", f"{name}:our_{verb}"), Contender(peer, f"{name}:peer_{verb}"))


def our_write() -> Callable[[], None]:
    """Prepares writing with ours."""
    samples = _samples()
    return lambda: _repeat(lambda: write_shard(samples))


def peer_write() -> Callable[[], None]:
    """Prepares writing with the peer."""
    samples = _samples()
    return lambda: _repeat(lambda: _written_by_webdataset(samples))


def our_read() -> Callable[[], None]:
    """Prepares reading with ours."""
    shard = write_shard(_samples())
    return lambda: _repeat(lambda: list(read_shard(shard)))


def peer_read() -> Callable[[], None]:
    """Prepares reading with the peer."""
    shard = write_shard(_samples())
    return lambda: _repeat(lambda: _read_by_webdataset(shard))


def _samples() -> list[tuple[str, dict[str, bytes]]]:
    """Returns 2,000 samples with pictures of 4 kB."""
    rng = random.Random(0)
    return [(f"{n:08d}", {"png": rng.randbytes(4000), "txt": b"a caption", "json": b"{}"}) for n in range(2000)]


def _written_by_webdataset(samples: list[tuple[str, dict[str, bytes]]]) -> bytes:
    file = io.BytesIO()
    with webdataset.TarWriter(file, encoder=False) as writer:
        for key, members in samples:
            writer.write({"__key__": key} | members)
    return file.getvalue()


def _read_by_webdataset(shard: bytes) -> list[Any]:
    return list(group_by_keys(tar_file_expander([{"stream": io.BytesIO(shard), "url": "shard"}])))


def _repeat(work: Callable[[], Any]) -> None:
    for _ in range(REPEATS):
        work()
