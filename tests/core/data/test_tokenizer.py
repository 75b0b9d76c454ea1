"""Tokenizers behind one interface."""

import pytest

from components.core.data.tokenizer import build_tokenizer, tokenizer_from_json

CAPTIONS = ["stars and the word cat", "the word zip near hearts"]


@pytest.mark.parametrize("name", ["words", "open_clip"])
def test_a_tokenizer_survives_json(name: str) -> None:
    tokenizer = build_tokenizer(name, CAPTIONS, context_length=9)
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.vocab_size == tokenizer.vocab_size
    assert again(CAPTIONS).tolist() == tokenizer(CAPTIONS).tolist()


@pytest.mark.parametrize("name", ["words", "open_clip"])
def test_a_long_text_is_cut_and_keeps_its_end_token_with_the_highest_id(name: str) -> None:
    tokenizer = build_tokenizer(name, CAPTIONS, context_length=5)
    rows = tokenizer(["cat " * 50, "cat"])
    assert rows.shape == (2, 5)
    assert rows[0, -1] == tokenizer.vocab_size - 1
    assert (rows.max(dim=1).values == tokenizer.vocab_size - 1).all()


def test_unseen_words_share_an_id_and_the_order_of_captions_does_not_matter() -> None:
    tokenizer = build_tokenizer("words", CAPTIONS, context_length=6)
    other = build_tokenizer("words", CAPTIONS[::-1], context_length=6)
    assert tokenizer(["xylophone"]).tolist() == other(["qwerty"]).tolist()
    assert tokenizer(CAPTIONS).tolist() == other(CAPTIONS).tolist()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="choose words or open_clip"):
        build_tokenizer("bert", CAPTIONS, context_length=6)
