"""CLIP from tars of JPEGs: our reader and loop, beside open_clip_train's webdataset reader and its `train_one_epoch`.

The model is small, so that the data shows; what both do without data, on ready crops, says how much of it that is. Our
threads are ahead of the training by the same number of batches when the clock starts and when it stops; the peer
reads in the process itself, which costs it the fewest CPU seconds. open_clip_train asks for webdataset 0.2.86 or older;
beside ours it is told to leave out the marks that newer ones put between tars, and nothing else is changed.
"""

import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from components.core.data.order import SampleOrder
from components.core.data.reader import ShardReader
from components.core.data.tar import write_shard
from components.runtime.storage import LocalFolder
from tests.bench.clip_step import (
    BATCH,
    CAPTION,
    ReadyClip,
    Size,
    log_every,
    one_process_thread,
    our_objective,
    our_steps,
    peer_arguments,
    peer_model,
    peer_steps,
    ready_batches,
)
from tests.bench.measure import Contender, Cost, NotEqual, compare, print_row, rounds
from tests.bench.photographs import Camera

SIZE = Size(image_px=224, patch_px=32, width=64, depth=2, text_width=64, text_depth=2, context=32)
NUM_SHARDS, NUM_STREAMS = 32, 8
NUM_SAMPLES = {256: 1024, 1000: 512}  # by the short side: one epoch
NUM_PICTURES = 48  # that differ
WARM_STEPS = 2
SETTLED_S = 3.0  # the reader has filled its queue
FIRST_LOSS_TOLERANCE = 0.02  # crops and order are drawn by each side
OURS, PEER, OUR_STEP, PEER_STEP = "ours", "open_clip_train, webdataset", "ours, no data", "open_clip_train, no data"


def rows() -> None:
    """Prints two rows per size, once the losses of the first step are alike."""
    for short_px, num_samples in NUM_SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            _write_shards(Path(folder), short_px, num_samples)
            arguments = (folder, num_samples)
            _check(*arguments)
            works = {OURS: "ours", PEER: "peer", OUR_STEP: "our_step", PEER_STEP: "peer_step"}
            costs = rounds([Contender(name, f"{__name__}:{work}", arguments) for name, work in works.items()])
        what = f"CLIP from tar, {short_px} px"
        compare(what, costs[OURS], costs[PEER], PEER)
        shares = [_share_of_data(costs[whole], costs[step]) for whole, step in ((OURS, OUR_STEP), (PEER, PEER_STEP))]
        print_row(f"{what}: data", PEER, "-", "", "{:.0%} of ours, {:.0%} of the peer's".format(*shares))
        data = [_data(costs[whole], costs[step]) for whole, step in ((OURS, OUR_STEP), (PEER, PEER_STEP))]
        compare(f"{what}: data alone", *data, PEER)


def ours(folder: str, num_samples: int) -> Callable[[], int]:
    """Prepares ours, with a reader that is ahead already."""
    one_process_thread()
    objective, batches = our_objective(SIZE), _reader(folder, num_samples).batches()
    our_steps(objective, batches, WARM_STEPS)
    time.sleep(SETTLED_S)

    def work() -> int:
        our_steps(objective, batches, num_samples // BATCH)
        time.sleep(SETTLED_S)
        return num_samples

    return work


def peer(folder: str, num_samples: int) -> Callable[[], int]:
    """Prepares the peer."""
    one_process_thread()
    model, transform = peer_model(SIZE)
    peer_steps(model, _peer_ready(WARM_STEPS), peer_arguments())

    def work() -> int:
        data = _peer_data(folder, num_samples, transform)
        peer_steps(model, data, peer_arguments())
        return data.dataloader.num_samples

    return work


def our_step(folder: str, num_samples: int) -> Callable[[], int]:
    """Prepares as many steps of ours on ready crops."""
    one_process_thread()
    objective, batches = our_objective(SIZE, ReadyClip), ready_batches(SIZE, WARM_STEPS)
    our_steps(objective, iter(batches), WARM_STEPS)

    def work() -> int:
        our_steps(objective, iter(batches * (num_samples // BATCH // WARM_STEPS)), num_samples // BATCH)
        return num_samples

    return work


def peer_step(folder: str, num_samples: int) -> Callable[[], int]:
    """Prepares as many steps of the peer on ready crops."""
    one_process_thread()
    model, _ = peer_model(SIZE)
    batches = _peer_ready(WARM_STEPS)
    peer_steps(model, batches, peer_arguments())

    def work() -> int:
        peer_steps(model, batches * (num_samples // BATCH // WARM_STEPS), peer_arguments())
        return num_samples

    return work


def _peer_ready(num_batches: int) -> list[Any]:
    return [(batch.images_BCSS, batch.tokens_BT) for batch in ready_batches(SIZE, num_batches)]


def _reader(folder: str, num_samples: int) -> ShardReader:
    """Returns our reader, without a cache, with JPEGs decoded at a fraction down to twice the crop's side."""
    per_shard = num_samples // NUM_SHARDS
    files = {path.name: {"sha256": _sha256(path)} for path in sorted(Path(folder).glob("*.tar"))}
    manifest: Any = SimpleNamespace(
        files=files, summary={"shards": [{"name": name, "samples": per_shard} for name in files]}
    )
    order = SampleOrder([per_shard] * NUM_SHARDS, seed=0, batch_size=BATCH, num_streams=NUM_STREAMS)
    return ShardReader(LocalFolder(Path(folder)), manifest, order, 0, decode_short_side_px=2 * SIZE.image_px)


def _peer_data(folder: str, num_samples: int, transform: Any) -> Any:
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip_train import data
    from webdataset.tariterators import tar_file_expander

    data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    arguments = peer_arguments(
        train_data=f"{folder}/{{00000..{NUM_SHARDS - 1:05d}}}.tar", train_num_samples=num_samples
    )
    return data.get_wds_dataset(arguments, transform, True, tokenizer=SimpleTokenizer(context_length=SIZE.context))


def _write_shards(folder: Path, short_px: int, num_samples: int) -> None:
    long_px = short_px * 4 // 3
    cameras = [Camera(*size) for size in ((long_px, short_px), (short_px, long_px), (short_px, short_px))]
    pictures = [cameras[number % len(cameras)].jpeg(number) for number in range(NUM_PICTURES)]
    per_shard = num_samples // NUM_SHARDS
    for shard in range(NUM_SHARDS):
        numbers = range(shard * per_shard, (shard + 1) * per_shard)
        samples = [
            (f"{n:08d}", {"jpg": pictures[n % NUM_PICTURES], "txt": CAPTION.format(n).encode()}) for n in numbers
        ]
        (folder / f"{shard:05d}.tar").write_bytes(write_shard(samples))


def _check(folder: str, num_samples: int) -> None:
    one_process_thread()
    batches = _reader(folder, num_samples).batches()
    found = our_steps(our_objective(SIZE), batches, 1)[0]
    batches.close()
    model, transform = peer_model(SIZE)
    data = _peer_data(folder, BATCH, transform)
    expected = peer_steps(model, data, peer_arguments(log_every_n_steps=log_every(False)))[0]
    if not math.isclose(found, expected, rel_tol=FIRST_LOSS_TOLERANCE):
        raise NotEqual(f"the first step's loss is {found}, the peer's {expected}")


def _share_of_data(whole: list[Cost], step: list[Cost]) -> float:
    return 1 - statistics.median(run.cpu_s for run in step) / statistics.median(run.cpu_s for run in whole)


def _data(whole: list[Cost], step: list[Cost]) -> list[Cost]:
    """Returns what is left of each run without the steps' median."""
    step_s = statistics.median(run.cpu_s for run in step)
    return [run._replace(cpu_s=run.cpu_s - step_s) for run in whole]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
