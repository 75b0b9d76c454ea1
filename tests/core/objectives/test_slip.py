"""SLIP is CLIP plus DINO on the same batch, around one trunk."""

import pytest
import torch

from components.core.data.augment import View
from components.core.data.batch import Batch
from components.core.data.tokenizer import build_tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.dino import DinoObjective
from components.core.objectives.slip import SlipObjective

CAPTIONS = ["stars and the word cat", "the word zip near hearts", "boxes and the word dog", "the word owl near moons"]
NUM_LOCAL = 2


def _parts(view_index: int = 2 + NUM_LOCAL) -> tuple[ClipObjective, DinoObjective]:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0)
    tokenizer = build_tokenizer("words", CAPTIONS, context_length=8)
    tower = TextTower(
        vocab_size=tokenizer.vocab_size, context_length=8, width=16, depth=1, num_heads=2, embedding_dim=12, seed=1
    )
    view = View(size_px=16, scale_low=0.9, scale_high=1.0)
    clip = ClipObjective(trunk, tower, tokenizer, view=view, seed=0, view_index=view_index)
    large = View(size_px=16, scale_low=0.4, scale_high=1.0, flip=0.5)
    dino = DinoObjective(
        trunk,
        num_steps=10,
        seed=0,
        global_views=(large, large),
        local_view=View(size_px=8, scale_low=0.1, scale_high=0.4),
        num_local=NUM_LOCAL,
        out_dim=32,
        hidden=24,
        bottleneck=12,
        freeze_steps=1,
    )
    return clip, dino


def _objective(ssl_scale: float = 1.0) -> SlipObjective:
    return SlipObjective(*_parts(), ssl_scale=ssl_scale)


def _batch(rows: slice = slice(0, 4)) -> Batch:
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))[rows]
    ids = torch.arange(4)[rows]
    return Batch(images, torch.full((len(ids), 2), 20), ids, torch.zeros_like(ids), CAPTIONS[rows])


@pytest.mark.parametrize("ssl_scale", [1.0, 0.3])
def test_loss_and_gradient_are_the_weighted_sum_of_both_arms(ssl_scale: float) -> None:
    slip = _objective(ssl_scale)
    loss, metrics = slip.loss(_batch(), 0)
    loss.backward()
    clip, dino = _parts()
    clip_loss, dino_loss = clip.loss(_batch(), 0)[0], dino.loss(_batch(), 0)[0]
    torch.testing.assert_close(loss, clip_loss + ssl_scale * dino_loss)
    torch.testing.assert_close(metrics["clip_loss"], clip_loss.detach())
    torch.testing.assert_close(metrics["dino_loss"], dino_loss.detach())
    assert {"teacher_entropy", "kl_to_uniform", "centre_norm", "feature_std", "batch_accuracy"} <= set(metrics)
    (clip_loss + ssl_scale * dino_loss).backward()
    for ours, theirs in ((slip.clip, clip), (slip.dino, dino)):
        expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
        found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
        assert found
        torch.testing.assert_close(found, {name: expected[name] for name in found}, rtol=1e-4, atol=1e-6)


def test_the_trunk_is_saved_once_and_trained_by_both() -> None:
    slip = _objective()
    tensors = slip.state_dict()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    assert slip.trunk is slip.clip.trunk is slip.dino.student
    assert not [name for name in tensors if "student." in name]
    slip.loss(_batch(), 0)[0].backward()
    trained = {name: parameter for name, parameter in slip.named_parameters() if parameter.requires_grad}
    assert len(trained) > 40 and all(parameter.grad is not None for parameter in trained.values())
    assert not [name for name in trained if name.startswith("dino.trunk.") or "teacher" in name]


def test_weights_travel_to_another_objective() -> None:
    one, other = _objective(), _objective()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1)
    assert not torch.equal(one.loss(_batch(), 0)[0], other.loss(_batch(), 0)[0])
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.loss(_batch(), 0)[0], other.loss(_batch(), 0)[0])


def test_embeddings_of_micro_batches_give_the_loss_and_centre_of_the_batch() -> None:
    whole, parts = _objective(), _objective()
    loss, metrics = whole.loss(_batch(), 2)
    found = [parts(_batch(rows), 2) for rows in (slice(0, 1), slice(1, 4))]
    joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    assert all(len(rows) == 4 for rows in joined.values())
    joined_loss, joined_metrics = parts.loss_of(joined, 2)
    torch.testing.assert_close(joined_loss, loss)
    torch.testing.assert_close(joined_metrics["teacher_entropy"], metrics["teacher_entropy"])
    for objective in (whole, parts):
        objective.after_update(2, torch.ones(()))
    torch.testing.assert_close(parts.dino.centre_K, whole.dino.centre_K)


def test_updates_move_teacher_and_centre_clamp_the_scale_and_freeze_prototypes() -> None:
    slip = _objective()
    slip.loss(_batch(), 0)[0].backward()
    slip.before_update(0)
    assert slip.dino.student_head.prototypes.grad is None
    with torch.no_grad():
        slip.clip.logit_scale.fill_(9.0)
        slip.trunk.vit.norm.weight.add_(1.0)
    before = slip.dino.trunk.vit.norm.weight.clone()
    slip.after_update(0, torch.ones(()))
    assert slip.clip.logit_scale.exp().item() == pytest.approx(100)
    assert (slip.dino.trunk.vit.norm.weight > before).all() and slip.dino.centre_K.norm() > 0
    assert slip.weight_decay(7) == slip.clip.weight_decay(7) == 0.2


def test_crops_that_both_losses_would_share_are_refused() -> None:
    with pytest.raises(ValueError, match="view_index=3 of clip is one of dino's 4 views"):
        SlipObjective(*_parts(view_index=3))
