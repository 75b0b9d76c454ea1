"""Preflight reduces over real processes, and says what is wrong before a training would find it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def ended(out: Path, num_ranks: int, *argv: str) -> list[tuple[int, str]]:
    """Runs the stage in this many processes, as torchrun would, and returns exit code and log of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_ranks)}
    command = [sys.executable, "-m", "components.preflight", f"--out_uri={out}", "--message_mib=1", "--num_rounds=2"]
    started = [
        subprocess.Popen(
            [*command, *argv],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    logs = [process.communicate()[1] for process in started]
    return [(process.returncode, log) for process, log in zip(started, logs, strict=True)]


def test_two_ranks_reduce_and_the_first_writes_what_they_found(tmp_path: Path) -> None:
    assert [code for code, _ in ended(tmp_path / "out", 2)] == [0, 0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"] == {"ranks": 2, "nodes": 1} and manifest["cost"]["bus_gb_per_s"] > 0
    ranks = json.loads((tmp_path / "out" / "ranks.json").read_text())
    assert [rank["is_right"] for rank in ranks] == [True, True]
    assert all(rank["host"] == socket.gethostname() and rank["shm_gib"] > 0 for rank in ranks)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--min_shm_gib=4096", "raise the pool's shmGib"),
        ("--min_bus_gb_per_s=1e9", "NCCL_DEBUG=INFO"),
    ],
)
def test_what_is_too_small_or_too_slow_fails_on_every_rank(tmp_path: Path, argv: str, sentence: str) -> None:
    for code, log in ended(tmp_path / "out", 2, argv):
        assert code == 1 and sentence in log
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_rank_alone_names_those_that_are_missing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "components.preflight", f"--out_uri={tmp_path}/out", "--timeout_s=2"]
    found = subprocess.run(command, env=os.environ | env, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1 and "1" in found.stderr.partition("problem")[2] and "Traceback" not in found.stderr
