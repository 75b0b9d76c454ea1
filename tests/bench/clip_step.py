"""Steps of CLIP on ready crops and tokens: our training loop, beside open_clip_train's `train_one_epoch`.

The peer's model is our export, so that both begin with the same weights.
"""

import logging
import math
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from components.core.data.augment import View
from components.core.data.tokenizer import OpenClipTokenizer
from components.core.models.encoder import TextSide
from components.core.models.export_open_clip import open_clip_files
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import PIXEL_MEAN, PIXEL_STD, Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.objective import Embeddings, Objective
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import LoopConfig, train
from components.runtime.process import keep_freed_memory
from components.runtime.storage import LocalFolder
from tests.bench.measure import Contender, NotEqual, compare_pair

BATCH, NUM_STEPS, CHECKED_STEPS = 64, 6, 4
TOLERANCE = 1e-4
VIEW_SCALE_LOW = 0.9
CAPTION = "a photograph of one thing beside another, number {}"
TRAINING = {"lr": 5e-4, "wd": 0.2, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "warmup": 2_000, "grad_clip_norm": 1.0}


@dataclass(frozen=True)
class Size:
    """A model's size."""

    image_px: int
    patch_px: int
    width: int
    depth: int
    text_width: int
    text_depth: int
    context: int


SIZE = Size(image_px=112, patch_px=16, width=192, depth=6, text_width=128, text_depth=3, context=77)


@dataclass(frozen=True)
class ReadyBatch:
    """Crops in [0, 1], and tokens."""

    images_BCSS: Tensor
    tokens_BT: Tensor

    def to(self, device: torch.device | str) -> "ReadyBatch":
        """Returns the batch on a device."""
        return replace(self, images_BCSS=self.images_BCSS.to(device), tokens_BT=self.tokens_BT.to(device))


class ReadyClip(ClipObjective):
    """CLIP of crops and tokens that are there already."""

    def embed(self, batch: Any, step: int) -> Embeddings:
        """Returns the embeddings."""
        return {"image": self.embed_images(batch.images_BCSS), "text": self.embed_tokens(batch.tokens_BT)}


class NothingSaved(Checkpoints):
    """Checkpoints that aren't written, because the peer writes none either."""

    def begin(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Does nothing."""


def rows() -> None:
    """Prints the row, once the losses of the first steps agree."""
    found, expected = (work(CHECKED_STEPS)() for work in (_our_losses, _peer_losses))
    if not all(math.isclose(mine, theirs, rel_tol=TOLERANCE) for mine, theirs in zip(found, expected, strict=True)):
        raise NotEqual(f"the losses are {found} and {expected}")
    compare_pair(
        f"CLIP step, {NUM_STEPS} of {BATCH}",
        Contender("ours", f"{__name__}:ours"),
        Contender("open_clip_train", f"{__name__}:peer"),
    )


def ours() -> Callable[[], int]:
    """Prepares ours."""
    return _counted(_our_losses(NUM_STEPS, is_warm=True))


def peer() -> Callable[[], int]:
    """Prepares the peer."""
    return _counted(_peer_losses(NUM_STEPS, is_warm=True))


def _counted(work: Callable[[], list[float]]) -> Callable[[], int]:
    return lambda: NUM_STEPS if work() else 0


def _our_losses(num_steps: int, is_warm: bool = False) -> Callable[[], list[float]]:
    one_process_thread()
    objective, batches = our_objective(SIZE, ReadyClip), ready_batches(SIZE, num_steps)
    if is_warm:
        our_steps(objective, iter(batches), 1)
    return lambda: our_steps(objective, iter(batches), num_steps, log_every_steps=log_every(is_warm))


def _peer_losses(num_steps: int, is_warm: bool = False) -> Callable[[], list[float]]:
    one_process_thread()
    model, _ = peer_model(SIZE)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    batches = [((batch.images_BCSS - mean) / std, batch.tokens_BT) for batch in ready_batches(SIZE, num_steps)]
    if is_warm:
        peer_steps(model, batches[:1], peer_arguments())
    return lambda: peer_steps(model, batches, peer_arguments(log_every_n_steps=log_every(is_warm)))


def log_every(is_timed: bool) -> int:
    """Returns open_clip_train's own distance of reports where time counts, else 1."""
    return 100 if is_timed else 1


def one_process_thread() -> None:
    """Sets up a process as a stage does, with one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.disable(logging.INFO)


def our_objective(size: Size, kind: type[ClipObjective] = ClipObjective) -> ClipObjective:
    """Returns our model with its loss."""
    trunk = Trunk(
        image_size_px=size.image_px,
        patch_size_px=size.patch_px,
        width=size.width,
        depth=size.depth,
        num_heads=size.width // 64,
        seed=0,
    )
    tokenizer = OpenClipTokenizer(context_length=size.context)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size,
        context_length=size.context,
        width=size.text_width,
        depth=size.text_depth,
        num_heads=size.text_width // 64,
        embedding_dim=size.text_width,
        seed=0,
    )
    view = View(size_px=size.image_px, scale_low=VIEW_SCALE_LOW, scale_high=1.0)
    return kind(trunk, tower, tokenizer, view=view, seed=0, weight_decay=TRAINING["wd"])


def peer_model(size: Size) -> tuple[nn.Module, Any]:
    """Returns open_clip's model of the same weights, and its training transform."""
    allow_torchvision_import()
    import open_clip

    ours = our_objective(size)
    side = TextSide(ours.text_tower, ours.tokenizer, ours.projection_DE, ours.logit_scale, None)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in open_clip_files(ours.trunk, side).items():
            Path(folder, name).write_bytes(data)
        model, transform, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", output_dict=True)
    return model, transform


def ready_batches(size: Size, num_batches: int) -> list[ReadyBatch]:
    """Returns batches of noise and its captions."""
    generator = torch.Generator().manual_seed(0)
    tokenizer = OpenClipTokenizer(context_length=size.context)
    shape = (BATCH, 3, size.image_px, size.image_px)
    return [
        ReadyBatch(
            torch.rand(shape, generator=generator),
            tokenizer([CAPTION.format(number * BATCH + row) for row in range(BATCH)]),
        )
        for number in range(num_batches)
    ]


def our_steps(
    objective: Objective, batches: Iterator[Any], num_steps: int, log_every_steps: int = 100, clip_norm: float = 1.0
) -> list[float]:
    """Returns the losses that our loop reports; see `losses_and_norms`."""
    return [loss for loss, _ in losses_and_norms(objective, batches, num_steps, log_every_steps, clip_norm)]


def losses_and_norms(
    objective: Objective, batches: Iterator[Any], num_steps: int, log_every_steps: int, clip_norm: float
) -> list[tuple[float, float]]:
    """Returns what our loop reports: the loss and the norm of the gradient, the last step's at least."""
    config = LoopConfig(
        num_steps=num_steps,
        learning_rate=TRAINING["lr"],
        warmup_steps=TRAINING["warmup"],
        beta1=TRAINING["beta1"],
        beta2=TRAINING["beta2"],
        epsilon=TRAINING["eps"],
        clip_norm=clip_norm,
        checkpoint_every_steps=num_steps,
        log_every_steps=log_every_steps,
        max_nonfinite_steps=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        curve = train(
            objective,
            lambda first_step: batches,
            config,
            checkpoints=NothingSaved(LocalFolder(Path(folder))),
            report=lambda step, values: None,
            should_stop=lambda: False,
        )
    return [(values["loss"], values["gradient_norm"]) for _, values in curve]


def peer_arguments(**changes: Any) -> Namespace:
    """Returns open_clip_train's arguments for one process on the CPU."""
    allow_torchvision_import()
    from open_clip_train.params import parse_args

    arguments = parse_args(["--precision=fp32", f"--batch-size={BATCH}", "--workers=0"])
    process = {"device": "cpu", "rank": 0, "world_size": 1, "distributed": False, "distill": False, "wandb": False}
    vars(arguments).update(process | TRAINING | changes)
    return arguments


def peer_steps(model: nn.Module, batches: Sequence[Any] | Any, arguments: Namespace) -> list[float]:
    """Trains with open_clip_train for as many batches as there are, and returns the losses that it reports.

    The optimiser is made as in open_clip_train/main.py.
    """
    from open_clip import ClipLoss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    is_plain = {n: p.ndim < 2 or any(word in n for word in ("bn", "ln", "bias", "logit_scale")) for n, p in _of(model)}
    groups = [
        {"params": [p for n, p in _of(model) if is_plain[n]], "weight_decay": 0.0},
        {"params": [p for n, p in _of(model) if not is_plain[n]], "weight_decay": arguments.wd},
    ]
    betas = (arguments.beta1, arguments.beta2)
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=betas, eps=arguments.eps)
    data = batches if hasattr(batches, "dataloader") else _Ready(batches)
    scheduler = cosine_lr(optimizer, arguments.lr, arguments.warmup, data.dataloader.num_batches)
    board = _Board()
    train_one_epoch(model, {"train": data}, ClipLoss(), 0, optimizer, None, scheduler, None, arguments, tb_writer=board)
    return board.losses


def _of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class _Ready:
    """Batches as open_clip_train wants its data."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.dataloader = _Loader(batches)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the batches are the same each time."""


class _Loader(list[Any]):
    @property
    def num_batches(self) -> int:
        return len(self)

    @property
    def num_samples(self) -> int:
        return len(self) * BATCH


class _Board(SimpleNamespace):
    """Keeps the losses that are written to TensorBoard."""

    def __init__(self) -> None:
        super().__init__(losses=[])

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if name == "train/loss":
            self.losses.append(value)
