"""CLIP and SigLIP: what is around their losses, and one step of both against open_clip."""

import copy

import pytest
import torch

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.training.optimizer import build_optimizer

CAPTIONS = [
    "stars and the word cat",
    "the word zip near hearts",
    "boxes and the word dog",
    "the word owl near moons",
]


def _objective(pair_loss: str = "softmax", view_index: int = 0) -> ClipObjective:
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
    view = View(size_px=16, scale_low=0.9, scale_high=1.0)
    return ClipObjective(trunk, tower, tokenizer, view=view, seed=0, pair_loss=pair_loss, view_index=view_index)


def _batch() -> Batch:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.full((4, 2), 20), torch.arange(4), torch.zeros(4, dtype=torch.int64), CAPTIONS)


@pytest.mark.parametrize("pair_loss", ["softmax", "sigmoid"])
def test_one_step_of_the_optimiser_equals_open_clips(pair_loss: str) -> None:
    """Weights within 1e-6 after a step of AdamW with learning rate 1e-3 and epsilon 1e-6.

    The keys' biases are left out: attention doesn't see them, so that their gradient is nothing but rounding.
    """
    allow_torchvision_import()
    from open_clip.loss import ClipLoss, SigLipLoss

    ours, theirs = _objective(pair_loss), _objective(pair_loss)
    loss, _ = ours.loss(_batch(), 0)
    embeddings, scale = theirs.embed(_batch(), 0), theirs.logit_scale.exp()
    if pair_loss == "softmax":
        expected = ClipLoss()(embeddings["image"], embeddings["text"], scale)
    else:
        expected = SigLipLoss()(embeddings["image"], embeddings["text"], scale, theirs.pair_loss.logit_bias)
    torch.testing.assert_close(loss, expected)
    for objective, value in ((ours, loss), (theirs, expected)):
        before = copy.deepcopy(objective.state_dict())
        value.backward()
        for name, parameter in objective.named_parameters():
            if name.endswith(("in_proj_bias", "qkv.bias")):
                parameter.grad.unflatten(0, (3, -1))[1] = 0
        build_optimizer(objective, learning_rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-6).step()
        assert all((before[name] != tensor).any() for name, tensor in objective.state_dict().items())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=1e-6)


def test_siglip_differs_from_clip_in_the_loss_only() -> None:
    clip, siglip = (_objective(pair_loss).state_dict() for pair_loss in ("softmax", "sigmoid"))
    assert set(siglip) - set(clip) == {"pair_loss.logit_bias"} and set(clip) <= set(siglip)
    assert [name for name in clip if not torch.equal(clip[name], siglip[name])] == ["pair_loss.logit_scale"]
    torch.testing.assert_close(_objective().embed(_batch(), 0), _objective("sigmoid").embed(_batch(), 0))


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="pair_loss='hinge': choose one of softmax, sigmoid"):
        _objective("hinge")


@pytest.mark.parametrize("pair_loss", ["softmax", "sigmoid"])
def test_embeddings_of_micro_batches_are_those_of_the_batch(pair_loss: str) -> None:
    objective, whole = _objective(pair_loss), _batch()
    halves = [
        Batch(
            whole.images_BCHW[rows], whole.sizes_B2[rows], whole.ids_B[rows], whole.epochs_B[rows], whole.captions[rows]
        )
        for rows in (slice(0, 2), slice(2, 4))
    ]
    parts = [objective(half, 0) for half in halves]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    torch.testing.assert_close(joined, objective.embed(whole, 0))
    torch.testing.assert_close(objective.loss_of(joined, 0)[0], objective.loss(whole, 0)[0])


def test_another_view_index_draws_other_crops() -> None:
    embeddings = [_objective(view_index=index).embed(_batch(), 0)["image"] for index in (0, 0, 5)]
    assert torch.equal(embeddings[0], embeddings[1]) and not torch.allclose(embeddings[0], embeddings[2])


@pytest.mark.parametrize("pair_loss", ["softmax", "sigmoid"])
def test_permuting_the_batch_does_not_change_the_loss(pair_loss: str) -> None:
    objective, batch, order = _objective(pair_loss), _batch(), torch.tensor([2, 0, 3, 1])
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
    objective.after_update(0, torch.ones(()))
    torch.testing.assert_close(objective.logit_scale.detach().exp(), torch.tensor(100.0))


@pytest.mark.parametrize("pair_loss", ["softmax", "sigmoid"])
def test_every_parameter_gets_a_gradient(pair_loss: str) -> None:
    objective = _objective(pair_loss)
    objective.loss(_batch(), 0)[0].backward()
    assert not [name for name, parameter in objective.named_parameters() if parameter.grad is None]
