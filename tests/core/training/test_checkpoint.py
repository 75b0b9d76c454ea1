"""Checkpoints: whole or invisible, damage is survived and told, the copy is of the moment."""

import json
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.core.training.checkpoint import Checkpoints
from components.runtime.storage import LocalFolder
from tests.core.training.small_runs import dino, run, state_sha256

TENSORS = {
    "bytes": torch.arange(5, dtype=torch.uint8),
    "flag": torch.tensor(True),
    "half": torch.arange(3).bfloat16(),
    "long": torch.tensor(7),
    "none": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).view(2, 3).mT,
    "double": torch.arange(2.0).double(),
}


def _save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"weight": torch.full((1_000,), float(step))}, {"step": step})
    checkpoints.flush()


def test_any_safetensors_reader_reads_what_was_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalFolder(tmp_path))
    checkpoints.save(1, TENSORS, {})
    found = checkpoints.latest()
    assert found is not None
    for tensors in (found.tensors, load_file(tmp_path / "step-000000001.safetensors")):
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[n], t) and tensors[n].dtype == t.dtype for n, t in TENSORS.items())


def test_a_checkpoint_is_a_snapshot_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(LocalFolder(tmp_path)), torch.zeros(1000)
    checkpoints.save(1, {"weight": weight}, {"note": "zeros"})
    weight.fill_(1.0)
    found = checkpoints.latest()
    assert found is not None and found.facts == {"note": "zeros"}
    assert found.tensors["weight"].sum() == 0


def test_a_save_after_a_save_takes_the_new_tensors_whatever_their_shape(tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalFolder(tmp_path))
    for step, tensor in enumerate([torch.ones(2), torch.zeros(2), torch.ones(3), torch.ones(3).double()]):
        checkpoints.save(step, {"weight": tensor}, {})
        found = checkpoints.latest()
        assert found is not None and torch.equal(found.tensors["weight"], tensor)


def test_a_save_that_was_begun_is_of_that_moment_when_changes_wait_for_it(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(LocalFolder(tmp_path)), torch.zeros(10_000_000)
    checkpoints.begin(1, {"weight": weight}, {})
    checkpoints.wait_until_copied()
    weight.fill_(1.0)
    found = checkpoints.latest()
    assert found is not None and found.tensors["weight"].sum() == 0


class _SlowFolder(LocalFolder):
    """A folder whose files aren't written before it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()

    def writer(self, name: str) -> AbstractContextManager[Any]:
        self.may_write.wait()
        return super().writer(name)


def test_saving_does_not_wait_for_the_writing(tmp_path: Path) -> None:
    folder = _SlowFolder(tmp_path)
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {"weight": torch.ones(3)}, {})
    assert not list(tmp_path.iterdir())
    folder.may_write.set()
    checkpoints.flush()
    assert checkpoints.steps() == [1]


def test_a_save_that_failed_is_raised_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(LocalFolder(tmp_path / "file"))
    checkpoints.save(1, {"weight": torch.ones(3)}, {})
    with pytest.raises(ValueError, match="can't be written"):
        checkpoints.save(2, {"weight": torch.ones(3)}, {})


def test_the_newest_stay_and_tensors_without_their_json_are_invisible_and_swept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalFolder(tmp_path), keep=2)
    (tmp_path / "step-000000009.safetensors").write_bytes(b"half")
    (tmp_path / "step-note.json").write_bytes(b"{}")
    assert checkpoints.latest() is None
    _save(checkpoints, 1, 2, 3)
    assert checkpoints.steps() == [2, 3]
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "json cut", "json of another kind"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    _save(Checkpoints(LocalFolder(tmp_path)), 6, 8)
    tensors, vouch = tmp_path / "step-000000008.safetensors", tmp_path / "step-000000008.json"
    data = bytearray(tensors.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        tensors.write_bytes(data)
    elif damage == "cut":
        tensors.write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        tensors.unlink()
    else:
        vouch.write_text(vouch.read_text()[:20] if damage == "json cut" else json.dumps([1]))
    told: list[tuple[str, int]] = []
    checkpoints = Checkpoints(
        LocalFolder(tmp_path), keep=1, tell=lambda event, **facts: told.append((event, facts["step"]))
    )
    found = checkpoints.latest()
    assert found is not None and found.step == 6 and found.tensors["weight"][0] == 6
    assert told == [("checkpoint_damaged", 8)]
    _save(checkpoints, 7)
    assert checkpoints.steps() == [7], "the damaged one doesn't take a whole one's place"


def test_training_goes_on_from_the_one_before_the_damaged(tmp_path: Path) -> None:
    straight = dino()
    run(straight, tmp_path)
    newest = tmp_path / "step-000000008.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed, seen = dino(), []  # type: ignore[var-annotated]
    run(resumed, tmp_path, seen=seen)
    assert [step for step, _ in seen] == [7, 8]
    assert state_sha256(resumed) == state_sha256(straight)


def test_no_checkpoint_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(LocalFolder(tmp_path), keep=0)
