"""Speed beside a peer, in one run: `make bench`. No test, and nothing here is asserted but that both give the same.

Each pair does the same work on the same bytes, rounds interleaved A B B A; the figure is the median of the paired
ratios of CPU seconds with a bootstrap interval, above 1 where ours is faster.
"""

import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy
import torch
import webdataset
from sklearn.neighbors import KNeighborsClassifier
from webdataset.tariterators import group_by_keys, tar_file_expander

from components.core.data.tar import read_shard, write_shard
from components.core.evaluation import knn

ROUNDS = 6
SAMPLES = [
    (f"{n:08d}", {"png": random.Random(n).randbytes(4000), "txt": b"a caption", "json": b"{}"}) for n in range(2000)
]
SHARD = write_shard(SAMPLES)


def seconds(work: Callable[[], Any]) -> float:
    """Returns the CPU seconds of this process and its children."""
    before = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - before


def compare(name: str, ours: Callable[[], Any], peer: Callable[[], Any], peer_name: str) -> None:
    """Prints one row: the median of the paired ratios, with its interval."""
    ratios = []
    for number in range(ROUNDS):
        order = (ours, peer) if number % 2 == 0 else (peer, ours)
        took = {work: max(seconds(work), 1e-3) for work in order}
        ratios.append(took[peer] / took[ours])
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=ROUNDS)) for _ in range(1000))
    print(f"{name:34}{peer_name:28}{statistics.median(ratios):6.2f}x  ({medians[25]:.2f} to {medians[974]:.2f})")


def write_with_webdataset() -> None:
    """Writes the samples with webdataset's TarWriter."""
    with webdataset.TarWriter(io.BytesIO(), encoder=False) as writer:
        for key, members in SAMPLES:
            writer.write({"__key__": key} | members)


def read_with_webdataset() -> list[Any]:
    """Reads the shard with webdataset's iterator."""
    return list(group_by_keys(tar_file_expander([{"stream": io.BytesIO(SHARD), "url": "shard"}])))


def bench_tar() -> None:
    """Compares writing and reading of one shard."""
    assert [sample["png"] for sample in read_with_webdataset()] == [members["png"] for _, members in read_shard(SHARD)]
    compare("tar write", lambda: write_shard(SAMPLES), write_with_webdataset, "webdataset TarWriter")
    compare("tar read", lambda: list(read_shard(SHARD)), read_with_webdataset, "webdataset iterator")


def bench_knn() -> None:
    """Compares k-NN at all four k."""
    generator = torch.Generator().manual_seed(0)
    train, test = (
        torch.nn.functional.normalize(torch.randn(n, 384, generator=generator), dim=1) for n in (10_000, 2_000)
    )
    labels = torch.randint(0, 100, (10_000,), generator=generator)

    def ours() -> dict[int, torch.Tensor]:
        return knn.predict(train, labels, test, neighbours=knn.NEIGHBOURS, num_classes=100, temperature=0.07)

    def peer() -> dict[int, numpy.ndarray]:
        def weights(distance: numpy.ndarray) -> numpy.ndarray:
            return numpy.exp((1 - distance) / 0.07)

        settings = {"metric": "cosine", "algorithm": "brute", "weights": weights}
        return {
            k: KNeighborsClassifier(k, **settings).fit(train.numpy(), labels.numpy()).predict(test.numpy())
            for k in knn.NEIGHBOURS
        }

    found, expected = ours(), peer()
    assert all((found[k].numpy() == expected[k]).mean() > 0.995 for k in knn.NEIGHBOURS)
    compare("k-NN, k of 10, 20, 100, 200", ours, peer, "scikit-learn, brute force")


def bench_nothing_to_do() -> None:
    """Prints what a finished stage costs when it is run again."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "components.build_shards", f"--out_uri={folder}", "--purpose=pretrain"]
        command += ["--num_samples=64", "--image_size_px=32"]

        def run() -> None:
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

        run()
        print(
            f"{'a stage with nothing to do':62}{statistics.median(seconds(run) for _ in range(ROUNDS)):6.2f} s of CPU"
        )


if __name__ == "__main__":
    print(f"{'what':34}{'peer':28}peer / ours, CPU seconds ({os.cpu_count()} cores, torch {torch.__version__})")
    bench_tar()
    bench_knn()
    bench_nothing_to_do()
