"""Which kind of source an address is."""

from components.build_shards.download import DownloadSettings
from components.build_shards.folder_source import FolderSource
from components.build_shards.labelled_sets import LabelledSource
from components.build_shards.params import SYNTHETIC, Params
from components.build_shards.parquet_source import PARQUET_SUFFIX, ParquetSource
from components.build_shards.source import Source
from components.build_shards.tar_source import SUFFIX as TAR_SUFFIX
from components.build_shards.tar_source import TarSource
from components.build_shards.world_source import WorldSource
from components.runtime.storage import open_folder


def open_source(params: Params) -> Source:
    """Returns the source at `--source_uri`: a published set, or what the folder holds.

    Tars are looked for before parquet, and parquet before pictures: img2dataset writes a parquet of statuses beside
    each of its tars.
    """
    if params.source_uri == SYNTHETIC:
        return WorldSource(
            purpose=params.purpose,
            num_scenes=params.num_samples,
            image_size_px=params.image_size_px,
            test_fraction=params.test_fraction,
            seed=params.seed,
        )
    folder = open_folder(params.source_uri)
    if params.labelled_set:
        return LabelledSource(folder, params.labelled_set, params.num_samples, params.seed)
    names = folder.names()
    if any(name.endswith(TAR_SUFFIX) for name in names):
        return TarSource(folder)
    if any(name.endswith(PARQUET_SUFFIX) for name in names):
        return ParquetSource(folder, _downloads(params))
    return FolderSource(folder, needs_caption=needs_caption(params))


def needs_caption(params: Params) -> bool:
    """Returns whether a picture without a caption is of no use."""
    return params.purpose in ("pretrain", "instruct")


def _downloads(params: Params) -> DownloadSettings:
    return DownloadSettings(
        concurrency=params.downloads_at_once,
        concurrency_per_host=params.downloads_per_host,
        window=4 * params.downloads_at_once,
        total_timeout_s=params.download_timeout_s,
        max_bytes=params.max_download_bytes,
        allowed_private_hosts=tuple(host.strip() for host in params.private_hosts.split(",") if host.strip()),
    )
