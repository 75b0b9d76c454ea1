"""The vision-language model and its parts."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.core.data.conversation import IGNORED, IMAGE, TEMPLATES, prompt_tokens
from components.core.data.dialogue import DialogueBatches, dialogue, texts
from components.core.data.shard_samples import Sample
from components.core.models.language_model import (
    FRAME,
    LEAST_REPEATS,
    LETTERS,
    LanguageModel,
    load_language_model,
    read_language_model,
    reply_text,
    save_language_model,
    tiny_language_model,
)
from components.core.models.projector import Projector
from components.core.models.trunk import Trunk, weights_sha256
from components.core.models.turns import text_logits
from components.core.models.vision_tower import own_tower
from components.core.models.vlm import VisionLanguageModel
from components.core.objectives.vlm import AlignObjective, TextObjective, TuneObjective
from components.runtime.storage import open_folder
from tests.core.models.small_llava import pair, random_pictures


def prompt(question: str, options: list[str]) -> str:
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    return (
        f"Question: {question}\nOptions:\n{lines}\nAnswer with the option's letter from the given choices directly.\n"
    )


def sample(number: int) -> Sample:
    asked = [
        {"question": prompt("What colour is it?", ["red", "green", "blue", "pink"]), "answer": "B", "text": "green"},
        {"question": prompt("Where is it?", ["top left", "top", "low", "left"]), "answer": "A", "text": "top left"},
    ]
    picture = Image.new("RGB", (16, 16), (number, 0, 0))
    return Sample(number, str(number), picture, "a green thing", {}, "train", asked)


def tiny() -> LanguageModel:
    return tiny_language_model(texts([sample(i) for i in range(LEAST_REPEATS)]), width=32, depth=2, num_heads=2, seed=0)


def vlm(language_model: LanguageModel) -> VisionLanguageModel:
    trunk = Trunk(image_size_px=16, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0).eval()
    projector = Projector(in_width=16, out_width=32, seed=0)
    return VisionLanguageModel(own_tower(trunk, {}), projector, language_model, TEMPLATES["bare"])


def test_options_and_the_fixed_parts_of_the_prompt_are_one_token_each():
    language_model = tiny()
    ids = language_model.encode(prompt("What colour is it?", ["red", "green", "blue", "pink"]))
    assert len(ids) == len(FRAME) + 5 + 4
    assert all(text not in language_model.tokenizer.convert_ids_to_tokens(ids) for text in ("red", "Ġred"))


def test_what_no_text_has_is_read_as_bytes():
    language_model = tiny()
    ids = language_model.encode("Wo ist Käse 猫?")
    assert len(ids) > 8 and language_model.decode(ids).strip() == "Wo ist Käse 猫?"


def test_a_rare_line_is_words():
    language_model = tiny()
    assert len(language_model.encode("B. green")) == 1
    assert language_model.decode(language_model.encode("B. top green")) == "B. top green"
    assert language_model.first_ids(["red", "green", "sign top", "top"])[2] == language_model.encode("C")[0]


def test_a_reply_survives_the_tokenizer():
    language_model = tiny()
    assert language_model.decode(language_model.encode(reply_text("B", "green"))) == "B. green"


def test_the_same_seed_gives_the_same_language_model():
    torch.manual_seed(1)
    first = weights_sha256(tiny().model)
    torch.manual_seed(2)
    assert weights_sha256(tiny().model) == first


def test_a_language_model_survives_its_files(tmp_path):
    language_model = tiny().eval()
    files = open_folder(str(tmp_path))
    names = save_language_model(files, "language_model", language_model)
    assert all(files.exists(name) for name in names)
    again = read_language_model(files, "language_model")
    assert weights_sha256(again.model) == weights_sha256(language_model.model)
    assert again.encode("red. top left") == language_model.encode("red. top left")
    assert load_language_model(str(tmp_path / "language_model")).encode("A. red") == language_model.encode("A. red")


def test_a_language_model_that_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can't be loaded"):
        load_language_model(str(tmp_path / "nothing"))


def test_questions_about_one_picture_do_not_see_each_other():
    language_model = tiny().eval()
    prefix_BNE = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    first, second = [5, 6, 7], [8, 9, 10, 11]
    asked = torch.tensor([[0, 0, 1, 0, 0, 1, 1]]).bool()
    turns = torch.tensor([[0] * 3 + [1] * 4])
    together = text_logits(language_model, prefix_BNE, torch.tensor([first + second]), turns, asked)
    alone = text_logits(language_model, prefix_BNE, torch.tensor([second]), turns[:, 3:], asked[:, 3:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_logits_are_those_of_transformers_without_our_mask():
    language_model = tiny().eval()
    tokens_BT = torch.tensor([[5, 6, 7, 8, 9]])
    ours = text_logits(
        language_model,
        language_model.embed(tokens_BT[:, :2]),
        tokens_BT[:, 2:],
        torch.zeros(1, 3, dtype=torch.int64),
        torch.ones(1, 3, dtype=torch.bool),
    )
    theirs = language_model.model(input_ids=tokens_BT).logits[0, 1:4]
    assert torch.allclose(ours, theirs, atol=1e-5)


def questions() -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns eight prompts of several lengths, and their options."""
    options = [("red", "green", "blue", "pink"), ("top left", "low", "x", "left")] * 4
    asked = ["What colour is it?", "Where?", "Which of these is it, then?", "What?"] * 2
    return [prompt(text, list(texts)) for text, texts in zip(asked, options, strict=True)], options


def models(folder: Path, template: str) -> VisionLanguageModel:
    """Returns a model whose answers are far from ties."""
    if template == "bare":
        return vlm(tiny()).eval()
    made = pair(folder)
    return VisionLanguageModel(made.tower, made.projector, made.language_model, TEMPLATES[template])


@torch.inference_mode()
@pytest.mark.parametrize("template", ["bare", "vicuna_v1"])
def test_the_batch_does_not_change_the_answers(tmp_path: Path, template: str):
    model = models(tmp_path, template)
    prompts, options = questions()
    features_BND = model.features(random_pictures(8))

    def answers(size: int) -> tuple[list[str], list[str]]:
        letters, replies = [], []
        for start in range(0, 8, size):
            part = slice(start, start + size)
            letters += model.choose_letters(features_BND[part], prompts[part], options[part])
            replies += model.generate(features_BND[part], prompts[part], 4)
        return letters, replies

    assert answers(1) == answers(3) == answers(8)
    assert len(set(answers(8)[0])) > 1 and len(set(answers(8)[1])) > 2, "the same answer to all would prove nothing"


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["byte_level", "llama"])  # training a `unigram` one is not deterministic
@pytest.mark.parametrize("letters", ["ABCD", " ABCD"])
def test_the_letters_are_those_that_transformers_finds_likeliest(tmp_path: Path, kind: str, letters: str):
    made = pair(tmp_path, tokenizer=kind, letters=letters)
    model = VisionLanguageModel(made.tower, made.projector, made.language_model, TEMPLATES["vicuna_v1"])
    prompts, options = questions()
    pictures = random_pictures(8)
    expected, margins = [], []
    tokenizer = made.language_model.tokenizer
    for asked, picture in zip(prompts, pictures, strict=True):
        rows = [prompt_tokens(f"{TEMPLATES['vicuna_v1'].ask(asked)} {letter}", tokenizer) for letter in LETTERS]
        assert len({tuple(row[:-1]) for row in rows}) == 1, "the last token alone is the letter"
        logits_V = made.theirs(**made.their_inputs([rows[0][:-1]], [picture])).logits[0, -1]
        scores = logits_V[[row[-1] for row in rows]]
        expected.append(LETTERS[scores.argmax()])
        margins.append(float(scores.topk(2).values.diff().abs()))
    assert model.choose_letters(model.features(pictures), prompts, options) == expected
    assert min(margins) > 1e-4 and len(set(expected)) > 1


@torch.inference_mode()
def test_where_an_options_line_is_one_token_that_token_counts():
    model = vlm(tiny()).eval()
    prompts, options = questions()
    features_BND = model.features(random_pictures(8))
    language_model = model.language_model
    expected = []
    for asked, named, features_ND in zip(prompts, options, features_BND, strict=True):
        words_TE = language_model.embed(torch.tensor(language_model.encode(asked)))
        vectors_TE = torch.cat([model.projector(features_ND), words_TE])
        ids = [language_model.encode(reply_text(letter, text))[0] for letter, text in zip(LETTERS, named, strict=True)]
        expected.append(LETTERS[language_model.model(inputs_embeds=vectors_TE[None]).logits[0, -1, ids].argmax()])
    assert len(language_model.encode("B. green")) == 1
    assert model.choose_letters(features_BND, prompts, options) == expected


@torch.inference_mode()
@pytest.mark.parametrize("vision", ["clip", "siglip"])
def test_replies_are_those_of_transformers(tmp_path: Path, vision: str):
    made = pair(tmp_path, vision)
    model = VisionLanguageModel(made.tower, made.projector, made.language_model, TEMPLATES["vicuna_v1"])
    prompts, _ = questions()
    pictures, language_model = random_pictures(8), made.language_model
    ids = {"eos_token_id": language_model.end_id, "pad_token_id": language_model.end_id}
    inputs = made.their_inputs([model.tokens(asked) for asked in prompts], list(pictures), side="left")
    theirs = made.theirs.generate(**inputs, **ids, max_new_tokens=8, do_sample=False)
    new = theirs[:, inputs["input_ids"].shape[1] :]
    expected = [language_model.decode(row).strip() for row in new.tolist()]
    assert model.generate(model.features(pictures), prompts, 8) == expected
    assert len(set(expected)) > 2


def test_an_image_mark_in_a_question_is_no_picture():
    model = vlm(tiny())
    assert model.tokens("What <image>colour?") == model.tokens("What colour?")
    assert model.tokens("What <image>colour?").count(IMAGE) == 1


def test_a_tokenizer_that_does_not_tell_the_letters_apart_is_refused(tmp_path: Path):
    made = pair(tmp_path, tokenizer="byte_level")
    mixed = pair(tmp_path, tokenizer="byte_level", letters=" AAAA").language_model
    for template, language_model in (("vicuna_v1", mixed), ("bare", _without_letters())):
        with pytest.raises(ValueError, match="tell the letters A, B, C and D apart"):
            VisionLanguageModel(made.tower, made.projector, language_model, TEMPLATES[template])


def _without_letters() -> LanguageModel:
    language_model = tiny()
    language_model.first_ids = lambda options: [5, 5, 6, 7]
    return language_model


def batches(language_model: LanguageModel) -> DialogueBatches:
    dialogues = [dialogue(sample(i), language_model, 64)[0] for i in range(8)]
    return DialogueBatches(dialogues, padding_id=0, seed=0)


def test_loss_is_on_replies_only():
    language_model = tiny()
    stream = batches(language_model).about_questions(0, features=torch.zeros(8, 4, 16), batch_size=4, num_questions=2)
    batch = next(stream)
    for tokens, labels in zip(batch.tokens_BT.tolist(), batch.labels_BT.tolist(), strict=True):
        learnt = [label for label in labels if label != IGNORED]
        assert learnt.count(language_model.end_id) == 2
        assert all(label in (IGNORED, token) for token, label in zip(tokens, labels, strict=True))
        assert language_model.decode(learnt) in ("B. greenA. top left", "A. top leftB. green")


def test_batches_are_a_pure_function_of_the_step():
    language_model = tiny()
    features = torch.randn(8, 4, 16)
    data = batches(language_model)
    stream = data.about_questions(0, features=features, batch_size=3, num_questions=1)
    whole = [next(stream) for _ in range(6)]
    resumed = next(data.about_questions(5, features=features, batch_size=3, num_questions=1))
    assert torch.equal(whole[5].prefix, resumed.prefix) and torch.equal(whole[5].tokens_BT, resumed.tokens_BT)
    stream = data.about_words(0, batch_size=3, num_questions=2, num_words=4)
    words = [next(stream) for _ in range(6)]
    resumed = next(data.about_words(5, batch_size=3, num_questions=2, num_words=4))
    assert torch.equal(words[5].prefix, resumed.prefix) and torch.equal(words[5].tokens_BT, resumed.tokens_BT)


def test_each_objective_trains_its_own_parts():
    language_model = tiny()
    projector = Projector(in_width=16, out_width=32, seed=0)
    data = batches(language_model)
    captions = next(data.about_captions(0, features=torch.randn(8, 4, 16), batch_size=4))
    questions = next(data.about_questions(0, features=torch.randn(8, 4, 16), batch_size=4, num_questions=2))
    words = next(data.about_words(0, batch_size=4, num_questions=2, num_words=4))
    language_model.requires_grad_(False)
    align = AlignObjective(projector, language_model)
    align.loss(captions, 0)[0].backward()
    assert all(p.grad is not None for p in projector.parameters())
    assert all(p.grad is None for p in language_model.parameters())
    assert all(name.startswith("projector.") for name in align.state_dict())
    language_model.requires_grad_(True)
    text, tune = TextObjective(language_model), TuneObjective(projector, language_model)
    for objective, batch in ((text, words), (tune, questions)):
        objective.zero_grad()
        objective.loss(batch, 0)[0].backward()
        assert all(p.grad is not None for p in objective.parameters())
