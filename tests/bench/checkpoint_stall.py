"""How long saving a checkpoint of 500 MB holds up the training, beside a synchronous torch.save.

Ours twice: as `save` does it, which copies and returns, and as the loop does it, which copies while the next step
computes its gradient.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.training.checkpoint import Checkpoints
from components.runtime.process import keep_freed_memory
from components.runtime.storage import LocalFolder
from tests.bench.measure import ROUNDS, WALL, Contender, Cost, NotEqual, compare, cost

GRADIENT_S = 1.0  # of the step after the save


def rows() -> None:
    """Prints both rows, once both sides have read back what was saved."""
    with tempfile.TemporaryDirectory() as folder:
        _check(folder)
        ways = {"save": "ours, save", "begin": "ours, begin"}
        contenders = [Contender(name, f"{__name__}:ours", (folder, way)) for way, name in ways.items()]
        contenders.append(Contender("torch.save and fsync", f"{__name__}:peer", (folder,)))
        runs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
        for number in range(ROUNDS):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                found = cost(contender)
                runs[contender.name].append(found._replace(wall_s=found.found))
    peer = contenders[-1].name
    compare("checkpoint of 500 MB: stall", runs[ways["save"]], runs[peer], peer, WALL)
    compare("the same beside the next gradient", runs[ways["begin"]], runs[peer], peer, WALL)


def ours(folder: str, way: str) -> Callable[[], float]:
    """Prepares our second save, which finds the memory of the first; the work returns the seconds that it stalls."""
    state, checkpoints = _prepare(), _checkpoints(folder)
    checkpoints.save(1, state, {})
    checkpoints.flush()
    os.sync()

    def work() -> float:
        begin = time.perf_counter()
        if way == "save":
            checkpoints.save(2, state, {})
            return time.perf_counter() - begin
        checkpoints.begin(2, state, {})
        stalled_s = time.perf_counter() - begin
        _compute(GRADIENT_S)
        begin = time.perf_counter()
        checkpoints.wait_until_copied()
        return stalled_s + time.perf_counter() - begin

    return work


def peer(folder: str) -> Callable[[], float]:
    """Prepares the peer's second save; the work returns its seconds."""
    state = _prepare()
    _save(state, Path(folder, "torch-1.pt"))
    os.sync()

    def work() -> float:
        begin = time.perf_counter()
        _save(state, Path(folder, "torch-2.pt"))
        return time.perf_counter() - begin

    return work


def _prepare() -> dict[str, Tensor]:
    """Returns the weights of a ViT-B/16 and of a text tower of four blocks."""
    torch.set_num_threads(1)
    keep_freed_memory()
    trunk = Trunk(image_size_px=224, patch_size_px=16, width=768, depth=12, num_heads=12, seed=0)
    text = TextTower(vocab_size=49_408, context_length=77, width=512, depth=4, num_heads=8, embedding_dim=512, seed=0)
    return {f"model/{name}": tensor for part in (trunk, text) for name, tensor in part.state_dict().items()}


def _checkpoints(folder: str) -> Checkpoints:
    return Checkpoints(LocalFolder(Path(folder)))


def _save(state: dict[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _compute(seconds: float) -> None:
    """Keeps this thread busy with products, as a step does."""
    matrix, end = torch.randn(512, 512), time.perf_counter() + seconds
    while time.perf_counter() < end:
        matrix @ matrix


def _check(folder: str) -> None:
    state = _prepare()
    checkpoints = _checkpoints(folder)
    checkpoints.save(1, state, {})
    _save(state, Path(folder, "torch-1.pt"))
    read = checkpoints.latest()
    sides = [read.tensors if read else {}, torch.load(Path(folder, "torch-1.pt"), weights_only=True)]
    for found in sides:
        if found.keys() != state.keys() or not all(torch.equal(found[name], state[name]) for name in state):
            raise NotEqual("a checkpoint came back changed")
