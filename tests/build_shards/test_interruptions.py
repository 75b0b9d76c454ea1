"""Shards come out the same however the work is shared, stopped or killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.runtime.manifest import Manifest, read_manifest
from components.runtime.storage import open_folder


def command(out: Path, *argv: str) -> list[str]:
    return [sys.executable, "-m", "components.build_shards", f"--out_uri={out}", "--image_size_px=32", *argv]


def build(out: Path, *argv: str) -> Manifest:
    assert subprocess.run(command(out, *argv)).returncode == 0
    return result(out)


def result(out: Path) -> Manifest:
    manifest = read_manifest(open_folder(str(out)))
    assert manifest is not None
    return manifest


@pytest.mark.slow
def test_three_pods_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    arguments = ("--purpose=probe", "--num_samples=1500", "--num_workers=1", "--min_shards=5")
    alone = build(tmp_path / "alone", *arguments)
    out = tmp_path / "pods"
    pods = [subprocess.Popen(command(out, *arguments, "--num_pods=3", f"--pod_index={n}")) for n in (2, 1, 0)]
    assert [pod.wait(timeout=120) for pod in pods] == [0, 0, 0]
    assert result(out).files == alone.files
    assert not list(out.rglob("*.bin"))


@pytest.mark.slow
def test_a_stage_killed_twenty_times_gives_the_same_shards(tmp_path: Path) -> None:
    """Twenty kills at random points and a run to the end."""
    arguments = ("--purpose=pretrain", "--num_samples=9000", "--num_workers=2")
    alone = build(tmp_path / "alone", *arguments)
    rng, out = random.Random(0), tmp_path / "killed"
    num_kills = 0
    while num_kills < 20:
        process = subprocess.Popen(command(out, *arguments), start_new_session=True)
        try:
            assert process.wait(timeout=rng.uniform(0.3, 2.5)) == 0
            (out / "manifest.json").unlink()  # it came to its end: from here only the last steps are left to disturb
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            num_kills += 1
    found = build(out, *arguments)
    assert found.files == alone.files
    assert found.counts["inputs"] == 9000 == found.counts["samples"]
    assert not list(out.rglob("*.bin"))


def test_a_stage_that_is_asked_to_stop_keeps_what_is_finished(tmp_path: Path) -> None:
    arguments = ("--purpose=pretrain", "--num_samples=20000", "--num_workers=1")
    process = subprocess.Popen(command(tmp_path / "out", *arguments), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").rglob("items/*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 3 and "run the same command again" in errors
    assert list((tmp_path / "out").rglob("items/*.parquet"))


def test_a_worker_that_is_killed_ends_the_stage_with_advice(tmp_path: Path) -> None:
    arguments = ("--purpose=pretrain", "--num_samples=50000", "--num_workers=1")
    process = subprocess.Popen(command(tmp_path / "out", *arguments), stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").rglob("items/*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "lower --num_workers" in errors
