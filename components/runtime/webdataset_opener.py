"""Lets stock webdataset read `s3://` shards through our reader: in parts, ahead, resumed and counted."""

from typing import Any

from components.runtime.storage import open_folder


def register() -> None:
    """Makes `webdataset.WebDataset("s3://bucket/prefix/name.tar")` work in this process and those forked from it."""
    from webdataset.gopen import gopen_schemes

    gopen_schemes["s3"] = _open


def _open(url: str, mode: str = "rb", bufsize: int = 8192, **more: Any) -> Any:
    if mode not in ("r", "rb"):
        raise ValueError(f"{url} can't be opened with mode '{mode}': only reading is ours.")
    place, _, name = url.rpartition("/")
    return open_folder(place).open(name)
