"""What checkpoints hold: all that training changes, by name; what is loaded again stays out, and is checked."""

from pathlib import Path

import pytest
import torch

from components.core.models.language_tower import build_language_tower
from components.core.models.torchvision_cpu import allow_torchvision_import
from components.core.objectives.clip import ClipObjective
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Interrupted
from components.core.training.saved_state import fingerprint
from components.runtime.storage import LocalFolder
from tests.core.training.small_language_models import Sentence, llama, run_sentences
from tests.core.training.small_runs import ARMS, CAPTIONS, clip, dino, run, state_sha256

allow_torchvision_import()


def _clip_lm(num_trainable_layers: int = 1, seed: int = 0) -> ClipObjective:
    """The arm clip_lm: the language model's last layers train."""
    tower, tokenizer = build_language_tower(
        "tiny",
        CAPTIONS,
        revision="main",
        pooling="last",
        num_trainable_layers=num_trainable_layers,
        embedding_dim=12,
        context_length=8,
        seed=seed,
    )
    plain = clip()
    return ClipObjective(plain.trunk, tower, tokenizer, view=plain.view, seed=0)


def _names(folder: Path) -> set[str]:
    latest = Checkpoints(LocalFolder(folder)).latest()
    assert latest is not None
    return {name.removeprefix("model/") for name in latest.tensors if name.startswith("model/")}


@pytest.mark.parametrize("arm", ARMS)
def test_checkpoints_of_arms_that_load_nothing_hold_everything(tmp_path: Path, arm: str) -> None:
    objective = ARMS[arm]()
    run(objective, tmp_path, num_steps=1)
    assert _names(tmp_path) == set(objective.state_dict()), "DINO's teacher too, which no gradient reaches"


def test_a_language_tower_s_frozen_part_is_left_out_and_resuming_is_bit_identical(tmp_path: Path) -> None:
    straight, broken = _clip_lm(), _clip_lm()
    expected = run(straight, tmp_path / "straight")
    with pytest.raises(Interrupted):
        run(broken, tmp_path / "broken", stop_at=5)
    resumed = _clip_lm()
    assert run(resumed, tmp_path / "broken") == expected
    assert state_sha256(resumed) == state_sha256(straight)
    frozen = {name for name, p in straight.named_parameters() if not p.requires_grad}
    assert frozen and _names(tmp_path / "broken") == set(straight.state_dict()) - frozen
    assert any("text_tower.model.layers.1" in name for name in _names(tmp_path / "broken"))


def test_another_frozen_language_model_is_refused(tmp_path: Path) -> None:
    run_sentences(Sentence(llama(), "projector"), tmp_path)
    with pytest.raises(ValueError, match=r"frozen parameters of Sentence.*step 6: give the language model"):
        run_sentences(Sentence(llama(seed=1), "projector"), tmp_path)
    with pytest.raises(ValueError, match="frozen parameters of Sentence"):
        run_sentences(Sentence(llama(), "all"), tmp_path)


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    run_sentences(Sentence(llama(depth=2), "all"), tmp_path)
    objective = Sentence(llama(depth=3, seed=1), "all")
    before = state_sha256(objective)
    with pytest.raises(ValueError, match=r"another model: 9 of its tensors .*model\.layers\.2.*, \.\.\.\)"):
        run_sentences(objective, tmp_path)
    assert state_sha256(objective) == before
    run(clip(), tmp_path / "clip")
    with pytest.raises(ValueError, match="another model"):
        run(dino(), tmp_path / "clip")


def test_optimiser_states_of_parameters_that_no_longer_train_are_refused(tmp_path: Path) -> None:
    run_sentences(Sentence(llama(), "all"), tmp_path)
    objective = Sentence(llama(), "last layer")
    objective.unsaved = lambda: []  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"another model: .*optimizer/language_model"):
        run_sentences(objective, tmp_path)


def test_a_fingerprint_is_of_every_bit_name_shape_and_dtype() -> None:
    weights_AB = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    changed = weights_AB.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    variants = [
        {"w": weights_AB},
        {"v": weights_AB},
        {"w": changed},
        {"w": weights_AB.view(4, 3)},
        {"w": weights_AB.bfloat16()},
        {"w": weights_AB.half()},
        {"w": weights_AB.double()},
    ]
    assert len({fingerprint(found) for found in variants}) == len(variants)
    assert fingerprint({"w": weights_AB.mT.contiguous().mT}) == fingerprint({"w": weights_AB})
    assert fingerprint({}) == ""
