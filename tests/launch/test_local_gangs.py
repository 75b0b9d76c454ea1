"""Gangs on this machine: two nodes train as a cluster's would, and survive what a cluster's survive."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from components.build_shards.params import Params as BuildShards
from components.runtime.stage import run_stage
from tests.launch.gangs import IMAGE

SIZES = ["--num_samples_seen=3200", "--batch_size=32", "--num_streams=2", "--image_size_px=32"]
OFTEN = ["--checkpoint_every_steps=10", "--arm=clip"]
PATIENCE_S = 240

pytestmark = pytest.mark.slow  # each trains in two torchruns, of which each imports torch twice


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gangs") / "shards"
    argv = [f"--out_uri={folder}", "--purpose=pretrain", "--num_samples=256", "--image_size_px=32", "--min_shards=2"]
    assert run_stage(BuildShards, [*argv, "--num_workers=1"]) == 0
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards: Path) -> str:
    with launched(shards, "undisturbed") as launcher:
        assert launcher.wait(PATIENCE_S) == 0, launcher.args
    return digest(shards, "undisturbed")


@contextlib.contextmanager
def launched(shards: Path, name: str) -> Iterator[subprocess.Popen]:
    """Gives a launcher of a training on two nodes, which is killed at the end if need be."""
    pool = {"name": "host", "cpus": 1, "memoryGib": 2}
    gang = {"num_nodes": 2, "image": IMAGE, "arm": name, "scheduler": "local_cwd", "pool": pool}
    words = ["--stage=pretrain", f"--out_uri={shards.parent / name}", f"--shards={shards}", *SIZES, *OFTEN]
    env = os.environ | {"CETERIS_RUN": "run7", "OMP_NUM_THREADS": "1"}
    log = (shards.parent / f"{name}.txt").open("ab")
    command = [sys.executable, "-m", "components.launch", *words, f"--gang={json.dumps(gang)}"]
    launcher = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield launcher
    finally:
        launcher.kill()
        launcher.wait()
        log.close()


def digest(shards: Path, name: str) -> str:
    return hashlib.sha256((shards.parent / name / "encoder.safetensors").read_bytes()).hexdigest()


def endings(shards: Path, name: str) -> list[str]:
    logs = shards.parent / name / "logs"
    return [json.loads(path.read_text())["ending"] for path in sorted(logs.glob("*/end.json"))]


def ranks(shards: Path, name: str) -> dict[str, int]:
    """Returns the processes of the stage by their rank."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"--out_uri={shards.parent / name}" in process.cmdline() and "RANK" in process.environ():
                found[process.environ()["RANK"]] = process.pid
    return found


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def has_checkpoint(shards: Path, name: str) -> bool:
    return any((shards.parent / name / "checkpoints").glob("*.json"))


def test_a_killed_rank_is_restarted_from_the_last_checkpoint(shards: Path, undisturbed: str) -> None:
    with launched(shards, "killed") as launcher:
        until(lambda: has_checkpoint(shards, "killed"))
        os.kill(ranks(shards, "killed")["1"], signal.SIGKILL)
        assert launcher.wait(PATIENCE_S) == 0
    assert endings(shards, "killed") == ["failed", "done"]
    said = (shards.parent / "killed.txt").read_text()
    assert "a process was killed (signal 9)" in said
    assert '"event": "resumed"' in said
    assert digest(shards, "killed") == undisturbed


def test_a_launcher_that_is_asked_to_stop_leaves_a_checkpoint_and_no_process(shards: Path, undisturbed: str) -> None:
    with launched(shards, "stopped") as launcher:
        until(lambda: has_checkpoint(shards, "stopped"))
        launcher.terminate()
        assert launcher.wait(PATIENCE_S) == 3
    assert not ranks(shards, "stopped")
    with launched(shards, "stopped") as launcher:
        assert launcher.wait(PATIENCE_S) == 0
    assert digest(shards, "stopped") == undisturbed


def test_what_a_killed_launcher_left_running_ends_before_the_next_begins(shards: Path, undisturbed: str) -> None:
    with launched(shards, "orphaned") as launcher:
        until(lambda: has_checkpoint(shards, "orphaned"))
        launcher.kill()
    left = set(ranks(shards, "orphaned").values())
    assert len(left) == 2
    with launched(shards, "orphaned") as launcher:
        until(lambda: len(ranks(shards, "orphaned")) == 2 and not left & set(ranks(shards, "orphaned").values()))
        assert launcher.wait(PATIENCE_S) == 0
    assert '"event": "waits_until_gone"' in (shards.parent / "orphaned.txt").read_text()
    assert digest(shards, "orphaned") == undisturbed
