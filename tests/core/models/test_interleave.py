"""Rows of text and pictures: transformers' own states, whatever stands where."""

from pathlib import Path

import pytest
import torch

from components.core.data.conversation import IMAGE
from components.core.models.interleave import interleave, padded
from tests.core.models.small_llava import Pair, pair, random_pictures

ROWS = {
    "one picture": [[1, 5, IMAGE, 7, 8, 9]],
    "two pictures": [[1, IMAGE, 6, 7, IMAGE, 9]],
    "pictures side by side, first and last": [[IMAGE, IMAGE, 4, 5], [4, 5, 6, IMAGE]],
    "text alone": [[1, 5, 6, 7]],
    "of all kinds, padded": [[1, IMAGE, 6, 7, IMAGE, 9, 10], [1, 5, 6], [1, 2, 3, IMAGE, 5], [IMAGE]],
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", list(ROWS))
@pytest.mark.parametrize("vision", ["clip", "siglip"])
def test_logits_are_those_of_transformers(tmp_path: Path, vision: str, kind: str) -> None:
    models, token_rows = pair(tmp_path, vision), ROWS[kind]
    counts = [row.count(IMAGE) for row in token_rows]
    pictures = random_pictures(len(token_rows) * max(counts)).unflatten(0, (len(token_rows), max(counts)))
    ours, lengths = logits(models, token_rows, pictures)
    used = [picture for row, count in zip(pictures, counts, strict=True) for picture in row[:count]]
    inputs = models.their_inputs(token_rows, used)
    theirs = models.theirs(**inputs).logits
    assert lengths.tolist() == inputs["attention_mask"].sum(dim=1).tolist()
    for our, their, length in zip(ours, theirs, lengths.tolist(), strict=True):
        torch.testing.assert_close(our[:length], their[:length], rtol=0, atol=1e-4)
    assert theirs.std() > 0.1, "logits that say nothing would be equal too"


def logits(models: Pair, token_rows: list[list[int]], pictures_BKCSS: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch, num_pictures = pictures_BKCSS.shape[:2]
    features = models.tower(pictures_BKCSS.flatten(0, 1)) if num_pictures else torch.zeros(0, 4, 16)
    tokens_BT, is_text_BT = padded(token_rows, 0)
    found = interleave(
        models.language_model, models.projector(features).unflatten(0, (batch, num_pictures)), tokens_BT, is_text_BT
    )
    return models.language_model.scores(models.language_model.states(found.vectors_BSE)), found.lengths_B


def test_places_say_where_tokens_stand(tmp_path: Path) -> None:
    models = pair(tmp_path)
    tokens_BT, is_text_BT = padded([[1, IMAGE, 6, IMAGE], [4, 5]], 0)
    pictures_BKNE = torch.randn(2, 2, 4, 24)
    found = interleave(models.language_model, pictures_BKNE, tokens_BT, is_text_BT)
    assert found.starts_BT.tolist() == [[0, 1, 5, 6], [0, 1, 2, 2]] and found.lengths_B.tolist() == [10, 2]
    word_E = models.language_model.embed(torch.tensor(6))
    assert torch.equal(found.vectors_BSE[0, 5], word_E)
    assert torch.equal(found.vectors_BSE[0, 6:10], pictures_BKNE[0, 1])


def test_more_image_marks_than_pictures_are_an_error(tmp_path: Path) -> None:
    tokens_BT, is_text_BT = padded([[1, IMAGE, 6, IMAGE]], 0)
    with pytest.raises((RuntimeError, IndexError)):
        interleave(pair(tmp_path).language_model, torch.randn(1, 1, 4, 24), tokens_BT, is_text_BT)


def test_vectors_have_the_words_type_and_padding_gets_no_gradient(tmp_path: Path) -> None:
    models = pair(tmp_path)
    models.language_model.to(torch.bfloat16)
    pictures_BKNE = torch.randn(2, 2, 4, 24, requires_grad=True)
    tokens_BT, is_text_BT = padded([[1, IMAGE, 6], [4, 5]], 0)
    found = interleave(models.language_model, pictures_BKNE, tokens_BT, is_text_BT)
    assert found.vectors_BSE.dtype == torch.bfloat16
    models.language_model.states(found.vectors_BSE)[0, 5].float().sum().backward()
    assert pictures_BKNE.grad is not None
    reached = pictures_BKNE.grad.abs().sum(dim=(2, 3)) > 0
    assert reached.tolist() == [[True, False], [False, False]]
