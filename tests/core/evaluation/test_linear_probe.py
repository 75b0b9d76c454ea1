"""The linear probe."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from components.core.evaluation.linear_probe import Probe, Recipe, fit, train
from components.core.evaluation.splits import validation_split

RECIPE = Recipe(learning_rates=(1e-3, 1e-2, 1e-1), weight_decays=(0.0, 1e-2, 1.0), epochs=30, batch_size=128, seed=0)


def blobs(n: int, *, seed: int, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 16, generator=torch.Generator().manual_seed(99)) * 1.5
    labels = torch.randint(0, 5, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, 16, generator=generator), labels


def probe(features: Tensor, labels: Tensor) -> Probe:
    return fit(features, labels, validation_split(labels, 0.2, seed=0), num_classes=5, recipe=RECIPE)


def alone(features: Tensor, labels: Tensor, learning_rate: float, weight_decay: float) -> nn.Linear:
    """Returns one setting trained by torch's own parts."""
    head = nn.Linear(16, 5)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, RECIPE.epochs * -(-len(features) // RECIPE.batch_size)
    )
    generator = torch.Generator().manual_seed(RECIPE.seed)
    for _ in range(RECIPE.epochs):
        for index in torch.randperm(len(features), generator=generator).split(RECIPE.batch_size):
            loss = F.cross_entropy(head(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head


def test_every_head_of_the_grid_ends_where_torchs_adamw_takes_it_alone() -> None:
    features, labels = blobs(300, seed=0)
    inputs = torch.cat([features, torch.ones(300, 1)], dim=1)
    found = train(inputs, labels, RECIPE.grid, 5, RECIPE)
    for number, (learning_rate, weight_decay) in enumerate(RECIPE.grid):
        head = alone(features, labels, learning_rate, weight_decay)
        torch.testing.assert_close(found[:, number, :-1], head.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[:, number, -1], head.bias.detach(), atol=1e-5, rtol=1e-4)


def test_it_is_as_accurate_as_scikit_learns_logistic_regression() -> None:
    (train_set, labels), (test, truth) = blobs(1500, seed=0), blobs(1500, seed=1)
    reference = LogisticRegression(max_iter=1000).fit(train_set.numpy(), labels.numpy())
    ours = float((probe(train_set, labels).head.predict(test) == truth).float().mean())
    assert ours == pytest.approx(reference.score(test.numpy(), truth.numpy()), abs=0.01)


def test_the_choice_is_the_settings_best_on_the_validation_split() -> None:
    features, labels = blobs(600, seed=0, spread=3)
    split, found = validation_split(labels, 0.2, seed=0), probe(features, labels)
    kept = features[split.kept]
    scaled = (features - kept.mean(dim=0)) / kept.std(dim=0, correction=0)
    accuracies = {}
    for setting in RECIPE.grid:
        head = alone(scaled[split.kept], labels[split.kept], *setting)
        is_right = head(scaled[split.held_out]).argmax(dim=1) == labels[split.held_out]
        accuracies[setting] = float(is_right.double().mean())
    assert found.validation_accuracy == pytest.approx(max(accuracies.values()), abs=0.5 / len(split.held_out))
    assert accuracies[found.learning_rate, found.weight_decay] == pytest.approx(max(accuracies.values()), abs=0.01)


def test_scale_and_offset_of_a_feature_change_nothing() -> None:
    (features, labels), (test, _) = blobs(400, seed=0), blobs(200, seed=1)
    scale, offset = torch.linspace(0.1, 10, 16), torch.linspace(-5, 5, 16)
    plain, moved = probe(features, labels).head, probe(features * scale + offset, labels).head
    assert (plain.predict(test) == moved.predict(test * scale + offset)).float().mean() > 0.99


def test_the_same_seed_gives_the_same_probe() -> None:
    features, labels = blobs(300, seed=0)
    assert torch.equal(probe(features, labels).head.weight_DC, probe(features, labels).head.weight_DC)


def test_random_labels_are_not_learnt() -> None:
    (features, _), (test, truth) = blobs(600, seed=0), blobs(1000, seed=1)
    labels = torch.randint(0, 5, (600,), generator=torch.Generator().manual_seed(3))
    assert float((probe(features, labels).head.predict(test) == truth).float().mean()) < 0.3
