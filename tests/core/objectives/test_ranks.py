"""Two processes see what one sees, and what open_clip's two processes see."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.contrastive import contrastive_loss
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Objective
from components.core.objectives.siglip import sigmoid_loss
from components.core.objectives.slip import SlipObjective

pytestmark = pytest.mark.slow

NUM_RANKS, NUM_PAIRS = 2, 8
CAPTIONS = [f"{shape} and the word {word}" for shape in ("stars", "moons") for word in ("cat", "zip", "dog", "owl")]
ARMS = ("clip", "siglip", "dino", "slip")
Found = dict[str, Any]


def _objective(arm: str) -> Objective:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    large = View(size_px=16, scale_low=0.4, scale_high=1.0, flip=0.5)
    dino = DinoObjective(
        trunk,
        num_steps=10,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=2,
        out_dim=32,
        hidden=24,
        bottleneck=12,
    )
    if arm == "dino":
        return dino
    tokenizer = build_tokenizer("words", CAPTIONS, context_length=8)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=8, width=16, depth=1, num_heads=2, embedding_dim=12, seed=1
    )
    view = View(size_px=16, scale_low=0.9, scale_high=1.0)
    pair_loss = "sigmoid" if arm == "siglip" else "softmax"
    clip = ClipObjective(trunk, tower, tokenizer, view=view, seed=0, pair_loss=pair_loss, view_index=4)
    return SlipObjective(clip, dino) if arm == "slip" else clip


def _batch(rows: slice) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM_PAIRS, 3, 20, 20), dtype=torch.uint8, generator=generator)[rows]
    ids = torch.arange(NUM_PAIRS)[rows]
    return Batch(images, torch.full((len(ids), 2), 20), ids, torch.zeros_like(ids), CAPTIONS[rows])


def _embeddings() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    image, text = (F.normalize(torch.randn(NUM_PAIRS, 6, generator=generator), dim=1) for _ in range(2))
    return image, text


def _losses(rows: slice, rank: int, num_ranks: int) -> Found:
    """Returns value and gradients (image, text, scale, bias) of our two losses and open_clip's, of some rows."""
    allow_torchvision_import()
    from open_clip.loss import ClipLoss, SigLipLoss

    soft = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=num_ranks)
    sigmoid = SigLipLoss(rank=rank, world_size=num_ranks)
    kinds = {
        "softmax": lambda image, text, scale, bias: contrastive_loss(image, text, scale)[0] + 0 * bias,
        "sigmoid": lambda image, text, scale, bias: sigmoid_loss(image, text, scale, bias)[0],
        "open_clip softmax": lambda image, text, scale, bias: soft(image, text, scale.exp()) + 0 * bias,
        "open_clip sigmoid": lambda image, text, scale, bias: sigmoid(image, text, scale.exp(), bias),
    }
    found = {}
    for name, kind in kinds.items():
        inputs = [tensor[rows].clone().requires_grad_() for tensor in _embeddings()]
        inputs += [torch.tensor(number, requires_grad=True) for number in (2.0, -3.0)]
        loss = kind(*inputs)
        loss.backward()
        found[name] = (loss.detach(), [tensor.grad for tensor in inputs])
    return found


def _updates(rows: slice) -> Found:
    """Returns loss, gradients averaged over ranks, and buffers after the update, of one step of each arm."""
    found = {}
    for arm in ARMS:
        objective = _objective(arm)
        loss, _ = objective.loss(_batch(rows), 1)
        loss.backward()
        loss = loss.detach()
        gradients = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
        if dist.is_initialized():
            for tensor in (loss, *gradients.values()):
                dist.all_reduce(tensor)
                tensor /= dist.get_world_size()
        objective.after_update(1, torch.ones(()))
        found[arm] = (loss, copy.deepcopy(gradients), dict(objective.named_buffers()))
    return found


def _main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    share = NUM_PAIRS // NUM_RANKS
    rows = slice(rank * share, (rank + 1) * share)
    torch.save((_losses(rows, rank, NUM_RANKS), _updates(rows)), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Found, Found]]:
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment)
        for rank in range(NUM_RANKS)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * NUM_RANKS
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]


@pytest.fixture(scope="module")
def alone() -> tuple[Found, Found]:
    return _losses(slice(None), 0, 1), _updates(slice(None))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_each_ranks_loss_and_embedding_gradients_equal_open_clips(ranks: list[Any], kind: str) -> None:
    """Relative tolerance 1e-5; the gradient of scale and bias is compared as its mean over ranks."""
    for losses, _ in ranks:
        loss, gradients = losses[kind]
        expected, expected_gradients = losses[f"open_clip {kind}"]
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[:2], expected_gradients[:2], rtol=1e-5, atol=1e-6)
    for number in (2, 3):
        mine, other = (
            torch.stack([losses[name][1][number] for losses, _ in ranks]).mean() for name in (kind, f"open_clip {kind}")
        )
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_losses_of_two_processes_are_that_of_one(ranks: list[Any], alone: tuple[Found, Found], kind: str) -> None:
    loss, gradients = alone[0][kind]
    found = [losses[kind] for losses, _ in ranks]
    torch.testing.assert_close(torch.stack([each for each, _ in found]).mean(), loss)
    for number in range(2):  # each rank's gradient is that of the sum of the losses: twice the mean's
        joined = torch.cat([each[number] for _, each in found]) / NUM_RANKS
        torch.testing.assert_close(joined, gradients[number], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arm", ARMS)
def test_an_update_of_two_processes_is_that_of_one(ranks: list[Any], alone: tuple[Found, Found], arm: str) -> None:
    """Loss and centre within 1e-5 relative, gradients within 1e-4 and 1e-5 absolute (float32)."""
    loss, gradients, buffers = alone[1][arm]
    assert gradients and (arm in ("clip", "siglip") or any("centre" in name for name in buffers))
    for _, updates in ranks:
        torch.testing.assert_close(updates[arm][0], loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(updates[arm][1], gradients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(updates[arm][2], buffers, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
