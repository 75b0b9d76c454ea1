"""The objective of conversations: transformers' loss and gradients, however the batch is cut."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.core.data.conversation import IGNORED, IMAGE
from components.core.data.conversation_batches import ConversationBatch
from components.core.models.interleave import padded
from components.core.objectives import vlm
from components.core.objectives.vlm import ConversationObjective
from components.core.training.batches import split
from tests.core.models.small_llava import Pair, pair, random_pictures

NO = IGNORED
ROWS = {  # tokens, and labels with IGNORED at IMAGE
    "one picture": [([1, 5, IMAGE, 7, 8, 9], [NO, NO, NO, NO, 8, 9])],
    "of all kinds": [
        ([1, IMAGE, 6, 7, IMAGE, 9, 10], [NO, NO, 6, NO, NO, 9, 10]),
        ([1, 5, 6], [NO, 5, 6]),
        ([1, 2, 3, IMAGE, 5], [NO, NO, NO, NO, 5]),
        ([1, 2, 3, 4], [NO, NO, NO, NO]),
    ],
    "text alone": [([1, 5, 6, 7], [NO, NO, 6, 7]), ([1, 2, 9], [NO, 2, 9])],
}


def made_batch(kind: str) -> ConversationBatch:
    token_rows, label_rows = ([list(part) for part in parts] for parts in zip(*ROWS[kind], strict=True))
    tokens_BT, is_text_BT = padded(token_rows, 0)
    labels_BT, _ = padded(label_rows, IGNORED)
    num_pictures = max(row.count(IMAGE) for row in token_rows)
    pictures = random_pictures(len(token_rows) * num_pictures).unflatten(0, (len(token_rows), num_pictures))
    weight = len(token_rows) / int((labels_BT != IGNORED).sum())
    return ConversationBatch(tokens_BT, labels_BT, is_text_BT, pictures, torch.full((len(token_rows),), weight))


def objective(models: Pair, trains: bool = True) -> ConversationObjective:
    return ConversationObjective(models.tower, models.projector, models.language_model, trains)


def their_loss(models: Pair, kind: str, batch: ConversationBatch) -> Tensor:
    token_rows = [tokens for tokens, _ in ROWS[kind]]
    labels = [[IMAGE if token == IMAGE else label for token, label in zip(*row, strict=True)] for row in ROWS[kind]]
    used = [
        picture
        for row, found in zip(token_rows, batch.pictures_BKCSS, strict=True)
        for picture in found[: row.count(IMAGE)]
    ]
    return models.theirs(**models.their_inputs(token_rows, used), labels=models.their_labels(labels)).loss


@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("tokens_at_once", [3, 2048])
def test_loss_and_gradients_are_those_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, tokens_at_once: int
) -> None:
    monkeypatch.setattr(vlm, "TOKENS_AT_ONCE", tokens_at_once)
    models, batch = pair(tmp_path), made_batch(kind)
    loss, metrics = objective(models)(batch, 0)
    expected = their_loss(models, kind, batch)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-4)
    assert metrics["loss"] == loss.detach() and not metrics["loss"].requires_grad
    loss.backward()
    expected.backward()
    llava = models.theirs.model
    pairs = [(models.language_model.model.model.embed_tokens, llava.language_model.embed_tokens)]
    pairs += [(models.language_model.model.lm_head, models.theirs.lm_head)]
    if kind != "text alone":
        pairs += [(models.projector.layers[0], llava.multi_modal_projector.linear_1)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    made, batch = objective(pair(tmp_path)), made_batch("of all kinds")
    whole, metrics = made(batch, 0)
    parts = [made(part, 0) for part in split(batch, 2)]
    torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), whole)
    share = torch.stack([found["token_accuracy"] for _, found in parts]).mean()
    torch.testing.assert_close(share, metrics["token_accuracy"])


def test_metrics_count_what_is_likeliest(tmp_path: Path) -> None:
    made, batch = objective(pair(tmp_path)), made_batch("of all kinds")
    before_BTE = []
    made._compared, compared = lambda *args: before_BTE.append(args[0]) or compared(*args), made._compared
    _, metrics = made(batch, 0)
    likeliest_BT = made.language_model.scores(before_BTE[0]).argmax(dim=2)
    is_label_BT = batch.labels_BT != IGNORED
    right = (likeliest_BT == batch.labels_BT)[is_label_BT]
    assert metrics["token_accuracy"] == pytest.approx(right.float().mean().item())
    batch.labels_BT[is_label_BT] = likeliest_BT[is_label_BT]
    _, metrics = made(batch, 0)
    assert metrics["token_accuracy"] == pytest.approx(1) and metrics["reply_accuracy"] == 1
    batch.labels_BT[1, 1] = (batch.labels_BT[1, 1] + 1) % 9  # the first of one of four replies
    assert made(batch, 0)[1]["reply_accuracy"] == pytest.approx(3 / 4)


def test_a_batch_without_pictures_gives_the_projector_a_gradient_of_0(tmp_path: Path) -> None:
    made = objective(pair(tmp_path))
    made(made_batch("text alone"), 0)[0].backward()
    for parameter in made.projector.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_each_stage_trains_and_saves_its_own_parts(tmp_path: Path) -> None:
    models = pair(tmp_path)
    align = objective(models, trains=False)
    align(made_batch("one picture"), 0)[0].backward()
    assert set(align.unsaved()) == set(models.language_model.parameters())
    assert all(parameter.grad is None for parameter in models.language_model.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in models.projector.parameters())
    models.language_model.requires_grad_(True)
    tune = objective(models)
    tune.train()
    tune(made_batch("one picture"), 0)[0].backward()
    assert {name.partition(".")[0] for name in tune.state_dict()} == {"projector", "language_model"}
    assert not tune.unsaved()
    assert all(parameter.grad is not None for parameter in tune.parameters())
    assert not any(parameter.requires_grad for parameter in models.tower.parameters())
    assert not models.language_model.model.training, "no dropout"


def test_scores_of_all_words_at_all_places_are_never_kept(tmp_path: Path) -> None:
    models, batch = pair(tmp_path), made_batch("of all kinds")
    num_words = models.language_model.model.config.vocab_size
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        objective(models)(batch, 0)
    assert kept and not [shape for shape in kept if num_words in shape[1:] and len(shape) > 1]
