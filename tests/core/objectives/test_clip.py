"""CLIP's loss against open_clip's."""

import math

import torch
import torch.nn.functional as F

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective, contrastive_loss

CAPTIONS = [
    "stars and the word cat",
    "the word zip near hearts",
    "boxes and the word dog",
    "the word owl near moons",
]


def _objective() -> ClipObjective:
    tokenizer = build_tokenizer("words", CAPTIONS, context_length=8)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size,
        context_length=8,
        width=16,
        depth=1,
        num_heads=2,
        embedding_dim=12,
        seed=1,
    )
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    return ClipObjective(trunk, tower, tokenizer, view=View(size_px=16, scale_low=0.9, scale_high=1.0), seed=0)


def _batch() -> Batch:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.full((4, 2), 20), torch.arange(4), torch.zeros(4, dtype=torch.int64), CAPTIONS)


def test_the_loss_equals_open_clips() -> None:
    allow_torchvision_import()
    from open_clip.loss import ClipLoss

    image, text = (F.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(s)), dim=1) for s in (0, 1))
    scale = torch.tensor(math.log(20.0))
    ours, _ = contrastive_loss(image, text, scale)
    torch.testing.assert_close(ours, ClipLoss()(image, text, scale.exp()))


def test_permuting_the_batch_does_not_change_the_loss() -> None:
    objective, batch, order = _objective(), _batch(), torch.tensor([2, 0, 3, 1])
    permuted = Batch(
        batch.images_BCHW[order],
        batch.sizes_B2,
        batch.ids_B[order],
        batch.epochs_B,
        [CAPTIONS[i] for i in order.tolist()],
    )
    torch.testing.assert_close(objective.loss(batch, 0)[0], objective.loss(permuted, 0)[0])


def test_the_logit_scale_starts_at_the_papers_value_and_is_clamped_at_100() -> None:
    objective = _objective()
    torch.testing.assert_close(objective.logit_scale.detach().exp(), torch.tensor(1 / 0.07))
    with torch.no_grad():
        objective.logit_scale.fill_(9.0)
    objective.after_update(0)
    torch.testing.assert_close(objective.logit_scale.detach().exp(), torch.tensor(100.0))


def test_every_parameter_gets_a_gradient() -> None:
    objective = _objective()
    objective.loss(_batch(), 0)[0].backward()
    assert not [name for name, parameter in objective.named_parameters() if parameter.grad is None]
