"""Shards are written to a store that fails, and read back through one: nothing is lost, and the order stays."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from components.build_shards.params import Params
from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.data.shard_samples import read_samples
from components.runtime import metrics
from components.runtime.cache import CachedFolder
from components.runtime.manifest import Manifest, read_manifest
from components.runtime.s3 import S3Folder
from components.runtime.s3_client import Limits
from components.runtime.stage import run_stage
from components.runtime.storage import Folder, open_folder
from tests.runtime.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.s3 import s3_server, use_s3

NUM_SAMPLES = 400
BATCH_SIZE = 16
# A reset may throw away the bytes before it, so up to 55 of 100 calls bring nothing: 40 in a row are one in 10^10.
QUICK = Limits(attempts=40, first_pause_s=0.01, longest_pause_s=0.05, part_bytes=32 << 10)
BUSY = Fault("refuse", probability=0.3)
CUT = [Fault("reset", probability=0.25 / 0.7), Fault("short", probability=0.25 / 0.45)]  # half of what isn't refused


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    monkeypatch.setenv("CETERIS_SPOOL", str(tmp_path / "spool.jsonl"))
    with fault_proxy(endpoint) as found:
        use_s3(monkeypatch, found.endpoint)
        boto3.session.Session().client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
        yield found


def build(uri: str) -> Manifest:
    arguments = ["--purpose=pretrain", f"--num_samples={NUM_SAMPLES}", "--image_size_px=32", "--num_workers=1"]
    assert run_stage(Params, [f"--out_uri={uri}", *arguments]) == 0
    manifest = read_manifest(open_folder(uri))
    assert manifest is not None
    return manifest


def captions(folder: Folder | CachedFolder, manifest: Manifest, num_steps: int) -> list[list[str]]:
    sizes = [shard["samples"] for shard in manifest.summary["shards"]]
    order = SampleOrder(sizes, seed=0, batch_size=BATCH_SIZE, num_streams=8)
    batches = ShardReader(folder, manifest, order, cache_bytes=0).batches()
    found = [batch.captions for batch in itertools.islice(batches, num_steps)]
    batches.close()
    return found


@pytest.mark.slow
def test_every_sample_arrives_in_order_though_30_of_100_calls_are_refused_and_half_the_bodies_cut(
    proxy: FaultProxy, tmp_path: Path
) -> None:
    manifest = build("s3://bucket/shards")
    folder = S3Folder("bucket", "shards", QUICK)
    num_steps = 2 * NUM_SAMPLES // BATCH_SIZE
    keys = [sample.key for sample in read_samples(folder, manifest)]
    expected = captions(folder, manifest, num_steps)
    proxy.faults = [BUSY, *CUT]
    metrics.drain()
    assert [sample.key for sample in read_samples(folder, manifest)] == keys and len(set(keys)) == NUM_SAMPLES
    assert captions(folder, manifest, num_steps) == expected
    assert captions(CachedFolder(folder, tmp_path / "cache", 1 << 30), manifest, num_steps) == expected
    retries = {name: n for name, n in metrics.totals().items() if name.startswith("storage_retries")}
    assert sum(retries.values()) > len(manifest.summary["shards"])


@pytest.mark.slow
def test_a_busy_store_gets_the_same_shards_as_a_disk(proxy: FaultProxy, tmp_path: Path) -> None:
    on_disk = build(str(tmp_path / "out"))
    proxy.faults = [Fault("refuse", probability=0.2, applies=lambda seen: True), Fault("lose", probability=0.05)]
    assert build("s3://bucket/busy").files == on_disk.files
