"""A node's cache gives what the folder would give, within its bound, and never stops a read."""

import hashlib
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import pytest

from components.runtime import metrics
from components.runtime.cache import CachedFolder
from components.runtime.errors import StageFailure
from components.runtime.storage import LocalFolder

SIZE = 1000


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    """A folder with ten objects, and counters at zero."""
    metrics.drain()
    found = LocalFolder(tmp_path / "store")
    for i in range(10):
        found.write(f"{i}.tar", content(i))
    return found


def content(i: int) -> bytes:
    return bytes([i]) * SIZE


def digest(i: int) -> str:
    return hashlib.sha256(content(i)).hexdigest()


def kept(path: Path) -> set[str]:
    return {file.name for file in path.iterdir() if file.name != "lock"}


def test_what_was_read_once_needs_no_store(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 10 * SIZE)
    assert cache.read_verified("1.tar", digest(1)) == content(1)
    folder.delete("1.tar")
    assert cache.read_verified("1.tar", digest(1)) == content(1)
    assert CachedFolder(folder, tmp_path / "cache", 10 * SIZE).read_verified("1.tar", digest(1)) == content(1)
    assert metrics.totals() == {"cache_hits": 2, "cache_misses": 1}


def test_the_objects_read_longest_ago_go_first(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 3 * SIZE)
    for moment, i in enumerate([0, 1, 2, 0]):
        cache.read_verified(f"{i}.tar", digest(i))
        os.utime(tmp_path / "cache" / digest(i), (moment, moment))
    cache.read_verified("3.tar", digest(3))
    assert kept(tmp_path / "cache") == {digest(0), digest(2), digest(3)}


def test_an_object_larger_than_the_cache_is_not_kept(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", SIZE - 1)
    assert cache.read_verified("1.tar", digest(1)) == content(1)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_copy_is_replaced(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 10 * SIZE)
    cache.read_verified("1.tar", digest(1))
    copy = tmp_path / "cache" / digest(1)
    copy.write_bytes(content(2))
    assert cache.read_verified("1.tar", digest(1)) == content(1)
    assert copy.read_bytes() == content(1)
    assert metrics.totals()["cache_failures{reason=damaged}"] == 1


def test_a_damaged_object_is_refused_and_not_kept(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 10 * SIZE)
    with pytest.raises(
        StageFailure, match=f"1.tar is damaged: its sha256 is {digest(1)}, its manifest says {digest(2)}"
    ):
        cache.read_verified("1.tar", digest(2))
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_takes_no_more_costs_the_cache_and_not_the_read(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 10 * SIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (SIZE // 2, before[1])
    )  # a write breaks off in its middle, as on a full disk
    try:
        assert cache.read_verified("1.tar", digest(1)) == content(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert kept(tmp_path / "cache") == set()
    assert metrics.totals()["cache_failures{reason=EFBIG}"] == 1


def test_a_cache_that_can_not_be_made_costs_the_cache_and_not_the_read(folder: LocalFolder) -> None:
    assert CachedFolder(folder, Path("/dev/null/cache"), 10 * SIZE).read_verified("1.tar", digest(1)) == content(1)
    assert metrics.totals()["cache_failures{reason=ENOTDIR}"] == 2


def test_what_a_killed_process_left_goes_after_an_hour(folder: LocalFolder, tmp_path: Path) -> None:
    cache = CachedFolder(folder, tmp_path / "cache", 10 * SIZE)
    cache.read_verified("1.tar", digest(1))
    for name, age_s in {"old.partial": 0, "new.partial": None}.items():
        partial = tmp_path / "cache" / name
        partial.write_bytes(b"half")
        if age_s is not None:
            os.utime(partial, (age_s, age_s))
    cache.read_verified("2.tar", digest(2))
    assert kept(tmp_path / "cache") == {digest(1), digest(2), "new.partial"}


def read_all(store: Path, path: Path, order: list[int]) -> None:
    cache = CachedFolder(LocalFolder(store), path, 4 * SIZE)
    for i in order:
        assert cache.read_verified(f"{i}.tar", digest(i)) == content(i)


def test_processes_that_share_a_cache_stay_within_its_bound(folder: LocalFolder, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    orders = [[(i * step + step) % 10 for i in range(100)] for step in (1, 3, 7, 9)]
    workers = [context.Process(target=read_all, args=(folder.path, path, order)) for order in orders]
    for worker in workers:
        worker.start()
    largest = 0
    while any(worker.is_alive() for worker in workers):
        largest = max(largest, len([n for n in kept(path) if not n.endswith(".partial")]) if path.exists() else 0)
        threading.Event().wait(0.001)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert 0 < largest <= 4 and len(kept(path)) == 4
