"""Trainings of a second, in this process or in several that can be killed; the same for any number of ranks."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Objective
from components.core.objectives.slip import SlipObjective
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Curve, LoopConfig, train
from components.runtime.storage import LocalFolder

ROOT = Path(__file__).parents[3]
GLOBAL_BATCH = 8
CAPTIONS = [f"the word {word} near {thing}" for word in ("cat", "dog") for thing in ("moons", "stars", "boxes", "owls")]
NUM_STEPS = 8
PRELOADED = "tests.core.training.preloaded"


def clip(pair_loss: str = "softmax", view_index: int = 0, trunk: Trunk | None = None) -> ClipObjective:
    tokenizer = build_tokenizer("words", CAPTIONS, context_length=8)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=8, width=16, depth=2, num_heads=2, embedding_dim=12, seed=1
    )
    view = View(size_px=16, scale_low=0.9, scale_high=1.0)
    trunk = trunk or _trunk()
    return ClipObjective(trunk, tower, tokenizer, view=view, seed=0, pair_loss=pair_loss, view_index=view_index)


def dino(trunk: Trunk | None = None) -> DinoObjective:
    large = View(size_px=16, scale_low=0.4, scale_high=1.0, flip=0.5, jitter=0.8, brightness=0.4, hue=0.1)
    return DinoObjective(
        trunk or _trunk(),
        num_steps=NUM_STEPS,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=2,
        out_dim=32,
        hidden=16,
        bottleneck=8,
        momentum_start=0.9,
        freeze_steps=3,
    )


def slip() -> SlipObjective:
    trunk = _trunk()
    return SlipObjective(clip(trunk=trunk, view_index=4), dino(trunk))


def siglip() -> ClipObjective:
    return clip("sigmoid")


ARMS: dict[str, Callable[[], Objective]] = {"clip": clip, "siglip": siglip, "dino": dino, "slip": slip}


def _trunk() -> Trunk:
    return Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)


def batches(first_step: int) -> Iterator[Batch]:
    """Yields this rank's rows of the global batches, without end."""
    place = distributed.world()
    share = GLOBAL_BATCH // place.size
    rows = slice(place.rank * share, (place.rank + 1) * share)
    step = first_step
    while True:
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (GLOBAL_BATCH, 3, 20, 20), dtype=torch.uint8, generator=generator)
        ids = torch.arange(GLOBAL_BATCH) + GLOBAL_BATCH * step
        sizes, epochs = torch.full((share, 2), 20), torch.zeros(share, dtype=torch.int64)
        yield Batch(images[rows], sizes, ids[rows], epochs, CAPTIONS[rows])
        step += 1


def config(**changes: Any) -> LoopConfig:
    return replace(
        LoopConfig(
            num_steps=NUM_STEPS,
            learning_rate=1e-2,
            warmup_steps=2,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-6,
            clip_norm=1.0,
            checkpoint_every_steps=2,
            log_every_steps=1,
            max_nonfinite_steps=3,
        ),
        **changes,
    )


def run(
    objective: Objective,
    folder: Path,
    *,
    stop_at: int = 0,
    batches: Callable[[int], Iterator[Batch]] = batches,
    seen: list[tuple[int, dict[str, float]]] | None = None,
    **changes: Any,
) -> Curve:
    """Trains with the config's changes; where stop_at is given, it's asked to stop when that many steps are done."""
    reports: list[tuple[int, dict[str, float]]] = [] if seen is None else seen
    return train(
        objective,
        batches,
        config(**changes),
        checkpoints=Checkpoints(LocalFolder(folder)),
        report=lambda step, values: reports.append((step, values)),
        should_stop=lambda: bool(reports) and reports[-1][0] == stop_at,
        tell=lambda event, **facts: None,
    )


def state_sha256(module: nn.Module) -> str:
    """Returns the hash of all parameters and buffers."""
    return hashlib.sha256(save({n: t.contiguous().clone() for n, t in module.state_dict().items()})).hexdigest()


def in_ranks(num: int, work: Callable[..., None], *args: Any) -> list[BaseProcess]:
    """Starts `work(*args)` in a group of processes, from a server that has imported what they need."""
    port = free_port()
    processes: list[BaseProcess] = [
        processes_of().Process(target=_as_rank, args=(rank, num, port, work, args), daemon=True) for rank in range(num)
    ]
    for process in processes:
        process.start()
    return processes


def alone(work: Callable[..., None], *args: Any) -> BaseProcess:
    """Starts `work(*args)` in a process without a group."""
    process = processes_of().Process(target=work, args=args, daemon=True)
    process.start()
    return process


def processes_of() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = str(ROOT)
    context.set_forkserver_preload([PRELOADED, __name__])
    return context


def exit_codes(processes: list[BaseProcess], timeout_s: float = 60) -> list[int | None]:
    """Returns the codes with which processes end; None for one that had to be killed."""
    deadline = time.monotonic() + timeout_s
    codes = []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        codes.append(process.exitcode)
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    return codes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _as_rank(rank: int, num: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.start("gloo", timeout_s=60)
    work(*args)
    distributed.end()


def train_arm(arm: str, folder: Path, changes: dict[str, Any]) -> None:
    """Trains and writes `result-<rank>.json`: the curve, and the hash of all weights."""
    torch.set_num_threads(1)
    objective = ARMS[arm]()
    curve = run(objective, folder, **changes)
    write_result(folder, {"curve": curve, "weights": state_sha256(objective)})


def write_result(folder: Path, result: dict[str, Any]) -> None:
    (folder / f"result-{distributed.world().rank}.json").write_text(json.dumps(result))


def result(folder: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"result-{rank}.json").read_text())


def killed(process: BaseProcess) -> None:
    """Ends a process as an out-of-memory killer or a lost node would."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
