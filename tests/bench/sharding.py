"""Pictures on a disk to shards of 256 px, beside img2dataset and beside a plain loop of Pillow and webdataset.

img2dataset reads the files by their file:// addresses, in one process with 16 threads; ours has one worker. Counted
are the CPU seconds of all processes, from their start to their end; the last rows leave the start out, by what the
same does with few pictures.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import webdataset
from PIL import Image

from components.core.data.pixels import shrunk_size
from components.core.data.tar import read_shard
from tests.bench.measure import PEERS, Contender, Cost, NotEqual, compare, peers_python, rounds
from tests.bench.photographs import Camera

IMAGE_SIZE_PX, QUALITY, PER_SHARD = 256, 95, 500
KINDS = {"500 px": (500, 375, 3000), "1 megapixel": (1152, 864, 1000)}
FEW = 16
ROUNDS, START_ROUNDS = 4, 2
PEER_NAMES = ("img2dataset", "Pillow + webdataset ShardWriter")
MOST_LEVELS_APART = 4  # on average over a picture, the noise of two JPEG codings included
IMG2DATASET = (
    "--input_format=parquet --url_col=url --caption_col=caption --output_format=webdataset --processes_count=1 "
    "--thread_count=16 --resize_mode=keep_ratio --resize_only_if_bigger=True --enable_wandb=False "
    f"--image_size={IMAGE_SIZE_PX} --encode_quality={QUALITY} --number_sample_per_shard={PER_SHARD}"
)


def rows() -> None:
    """Prints three rows per size, once all sides have written the same pictures with the same captions."""
    peers_python()
    for kind, (width, height, num_pictures) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            _take_pictures(Path(folder), width, height, num_pictures)
            costs = rounds(_sides(folder, "all"), ROUNDS)
            _check(Path(folder), num_pictures)
            starts = rounds(_sides(folder, "few"), START_ROUNDS)
        worked = {name: _without(starts[name], runs) for name, runs in costs.items()}
        for name in PEER_NAMES:
            compare(f"sharding, {kind}", costs["ours"], costs[name], name)
            compare(f"sharding, {kind}, start left out", worked["ours"], worked[name], name)


def _sides(folder: str, which: str) -> list[Contender]:
    return [
        Contender("ours", f"{__name__}:ours", (folder, which)),
        Contender("img2dataset", f"{__name__}:img2dataset", (folder, which)),
        Contender("Pillow + webdataset ShardWriter", f"{__name__}:plain_loop", (folder, which)),
    ]


def _without(start: list[Cost], costs: list[Cost]) -> list[Cost]:
    cpu_s, wall_s = (statistics.median(run[place] for run in start) for place in range(2))
    return [Cost(run.cpu_s - cpu_s, run.wall_s - wall_s, None) for run in costs]


def ours(folder: str, which: str) -> Callable[[], int]:
    """Prepares the stage."""
    out = _empty(Path(folder) / "ours")
    command = [
        sys.executable,
        "-m",
        "components.build_shards",
        f"--out_uri={out}",
        "--purpose=probe",
        "--num_workers=1",
    ]
    command += [f"--source_uri={folder}/{which}", f"--image_size_px={IMAGE_SIZE_PX}", f"--jpeg_quality={QUALITY}"]
    command += [f"--samples_per_shard={PER_SHARD}", "--min_shards=1"]
    return lambda: _run(command, out)


def img2dataset(folder: str, which: str) -> Callable[[], int]:
    """Prepares its command line."""
    out = _empty(Path(folder) / "img2dataset")
    command = [f"{PEERS}/img2dataset", f"{folder}/{which}.parquet", f"--output_folder={out}", *IMG2DATASET.split()]
    return lambda: _run(command, out)


def plain_loop(folder: str, which: str) -> Callable[[], int]:
    """Prepares a loop of a few lines."""
    out = _empty(Path(folder) / "plain_loop")
    out.mkdir()

    def work() -> int:
        pattern = f"{out}/%05d.tar"
        with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0, encoder=False) as writer:
            for number, path in enumerate(sorted((Path(folder) / which).rglob("*.jpg"))):
                picture = Image.open(path).convert("RGB")
                picture = picture.resize(shrunk_size(picture.size, IMAGE_SIZE_PX), Image.Resampling.BOX)
                buffer = BytesIO()
                picture.save(buffer, "JPEG", quality=QUALITY)
                caption = path.with_suffix(".txt").read_bytes()
                writer.write({"__key__": f"{number:08d}", "jpg": buffer.getvalue(), "txt": caption, "json": b"{}"})
        return len(list(out.rglob("*.tar")))

    return work


def _take_pictures(folder: Path, width: int, height: int, num_pictures: int) -> None:
    """Writes pictures with their captions, in two classes, and img2dataset's list of them."""
    camera = Camera(width, height)
    for which, count in (("all", num_pictures), ("few", FEW)):
        listed = []
        for number in range(count):
            path = folder / which / ("even", "odd")[number % 2] / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(camera.jpeg(number, 85))
            path.with_suffix(".txt").write_text(f"caption number {number}")
            listed.append({"url": path.as_uri(), "caption": f"caption number {number}"})
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(listed), folder / f"{which}.parquet")


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _run(command: list[str], out: Path) -> int:
    """Runs a command to its end, and returns how many shards it has written."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{ended.stderr}")
    return len(list(out.rglob("*.tar")))


def _check(folder: Path, num_pictures: int) -> None:
    """Compares captions, sizes and pixels of what the sides have written last."""
    expected = dict(_samples(folder / "ours"))
    for peer in ("img2dataset", "plain_loop"):
        found = dict(_samples(folder / peer))
        if not len(found) == len(expected) == num_pictures or set(found) != set(expected):
            raise NotEqual(f"{peer} has {len(found)} samples, ours {len(expected)}, the source {num_pictures}")
        for caption, data in expected.items():
            mine, theirs = (
                numpy.asarray(Image.open(BytesIO(d)).convert("RGB"), dtype=int) for d in (data, found[caption])
            )
            if mine.shape != theirs.shape or abs(mine - theirs).mean() > MOST_LEVELS_APART:
                raise NotEqual(f"{peer}: '{caption}' has {theirs.shape}, ours {mine.shape}, or other pixels")


def _samples(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields caption and picture of all samples of all shards."""
    for shard in folder.rglob("*.tar"):
        for _, members in read_shard(shard.read_bytes()):
            json.loads(members["json"])
            yield members["txt"].decode(), members["jpg"]
