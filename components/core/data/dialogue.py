# B batch, P words before the text, N image tokens, D encoder's width, T text tokens.
"""Conversations about pictures as token ids, and the batches of the three trainings of a vision-language model.

Which picture comes when, which of its questions are asked, and where its words stand are pure functions of
(seed, step); they are the same for every arm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor

from components.core.data.conversation import IGNORED
from components.core.data.shard_samples import Sample
from components.core.models.language_model import LanguageModel, reply_text
from components.core.models.turns import NO_TURN


@dataclass(frozen=True)
class DialogueBatch:
    """One step of training.

    Attributes:
        prefix: What stands before the text: words (B, P) int64, or features of the picture (B, N, D).
        tokens_BT: Text, padded at the right.
        turns_BT: Which turn each token belongs to; NO_TURN for padding.
        labels_BT: The tokens to predict, IGNORED elsewhere.
    """

    prefix: Tensor
    tokens_BT: Tensor
    turns_BT: Tensor
    labels_BT: Tensor

    def to(self, device: torch.device | str) -> "DialogueBatch":
        """Returns the batch on a device."""
        return replace(
            self,
            prefix=self.prefix.to(device, non_blocking=True),
            tokens_BT=self.tokens_BT.to(device, non_blocking=True),
            turns_BT=self.turns_BT.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Turn:
    """A prompt and the reply to learn; a caption has no prompt."""

    prompt: list[int]
    reply: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


@dataclass(frozen=True)
class Dialogue:
    """What is said about one picture.

    Attributes:
        caption: A turn without prompt.
        questions: One turn per question.
        facts: The words of each question's right answer.
    """

    caption: Turn
    questions: list[Turn]
    facts: list[list[int]]


def dialogue(sample: Sample, language_model: LanguageModel, max_length: int) -> tuple[Dialogue, int]:
    """Returns a sample's conversations as token ids, without the questions that are longer than `max_length`.

    Returns:
        The dialogue, and how many questions were left out.
    """
    end = [language_model.end_id]
    kept, facts = [], []
    for conversation in sample.conversations:
        reply = language_model.encode(reply_text(conversation["answer"], conversation["text"])) + end
        turn = Turn(language_model.encode(conversation["question"]), reply)
        if len(turn) <= max_length:
            kept.append(turn)
            facts.append(language_model.encode(conversation["text"]))
    caption = Turn([], language_model.encode(sample.caption)[: max_length - 1] + end)
    return Dialogue(caption, kept, facts), len(sample.conversations) - len(kept)


def texts(samples: Sequence[Sample]) -> Iterator[str]:
    """Yields everything that is said about the pictures, for a vocabulary."""
    for sample in samples:
        yield sample.caption
        for conversation in sample.conversations:
            yield conversation["question"]
            yield reply_text(conversation["answer"], conversation["text"])


class DialogueBatches:
    """The batches of each training.

    Args:
        dialogues: One per picture.
        padding_id: Token that fills up.
        seed: Seed of the order.
    """

    def __init__(self, dialogues: Sequence[Dialogue], *, padding_id: int, seed: int) -> None:
        self.dialogues, self.padding_id, self.seed = dialogues, padding_id, seed

    def about_words(
        self, start_step: int, *, batch_size: int, num_questions: int, num_words: int
    ) -> Iterator[DialogueBatch]:
        """Yields batches of text alone, without end: caption and questions about words in the place of a picture.

        The words are the right answers to all of a picture's questions, in random order among padding, so that they
        fill `num_words` places.
        """
        for step, pictures in self._order(start_step, batch_size):
            rng = numpy.random.default_rng([self.seed, 1, step])
            chosen = [self.dialogues[i] for i in pictures]
            words_BP = torch.tensor([self._scatter(found.facts, num_words, rng) for found in chosen])
            turns = [[found.caption, *_some(found.questions, num_questions, rng)] for found in chosen]
            yield self._batch(words_BP, turns)

    def about_captions(self, start_step: int, *, features: Tensor, batch_size: int) -> Iterator[DialogueBatch]:
        """Yields batches of pictures with their captions, without end."""
        for _, pictures in self._order(start_step, batch_size):
            chosen = [self.dialogues[i] for i in pictures]
            yield self._batch(features[torch.tensor(pictures)], [[found.caption] for found in chosen])

    def about_questions(
        self, start_step: int, *, features: Tensor, batch_size: int, num_questions: int
    ) -> Iterator[DialogueBatch]:
        """Yields batches of pictures with up to `num_questions` of their questions each, without end."""
        for step, pictures in self._order(start_step, batch_size):
            rng = numpy.random.default_rng([self.seed, 3, step])
            turns = [_some(self.dialogues[i].questions, num_questions, rng) for i in pictures]
            yield self._batch(features[torch.tensor(pictures)], turns)

    def _order(self, start_step: int, batch_size: int) -> Iterator[tuple[int, list[int]]]:
        """Yields (step, pictures): each epoch is a shuffle of all pictures, cut off where a batch is not full."""
        size = min(batch_size, len(self.dialogues))
        per_epoch = len(self.dialogues) // size
        step = start_step
        while True:
            epoch = step // per_epoch
            shuffled = numpy.random.default_rng([self.seed, 2, epoch]).permutation(len(self.dialogues))
            for within in range(step % per_epoch, per_epoch):
                yield step, shuffled[within * size : (within + 1) * size].tolist()
                step += 1

    def _scatter(self, facts: list[list[int]], places: int, rng: numpy.random.Generator) -> list[int]:
        """Returns `places` words: each fact's side by side, the facts in random order among padding."""
        room = max(0, places - sum(len(words) for words in facts))
        units = facts + [[self.padding_id]] * room
        return [word for i in rng.permutation(len(units)) for word in units[i]][:places]

    def _batch(self, prefix: Tensor, turns: list[list[Turn]]) -> DialogueBatch:
        length = max(sum(len(turn) for turn in row) for row in turns)
        tokens_BT = torch.full((len(turns), length), self.padding_id)
        turns_BT = torch.full((len(turns), length), NO_TURN)
        labels_BT = torch.full((len(turns), length), IGNORED)
        for row, said in enumerate(turns):
            start = 0
            for number, turn in enumerate(said):
                reply, end = start + len(turn.prompt), start + len(turn)
                tokens_BT[row, start:end] = torch.tensor(turn.prompt + turn.reply)
                turns_BT[row, start:end] = number
                labels_BT[row, reply:end] = torch.tensor(turn.reply)
                start = end
        return DialogueBatch(prefix, tokens_BT, turns_BT, labels_BT)


def _some(questions: list[Turn], number: int, rng: numpy.random.Generator) -> list[Turn]:
    return [questions[i] for i in rng.permutation(len(questions))[:number]]
