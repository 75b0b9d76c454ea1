# T all tokens of all conversations one after the other, I conversations.
"""Many conversations in little memory: their tokens in one array of int32, not in lists of Python's integers.

LLaVA-1.5's 665,000 conversations have some 2 * 10^8 tokens: five bytes each here, and forty or more in lists.
"""

import hashlib
from array import array
from collections.abc import Iterable

import numpy

from components.core.data.conversation import IGNORED, Conversation


class Conversations:
    """Conversations by number.

    Args:
        conversations: Read once, one after the other.
        num_image_tokens: N, tokens of a picture.

    Attributes:
        lengths_I: Tokens of each, a picture counted as N.
        num_labels_I: Predicted tokens of each.
        has_picture_I: Which are about a picture.
    """

    def __init__(self, conversations: Iterable[Conversation], *, num_image_tokens: int) -> None:
        tokens, is_label, starts, num_labels = array("i"), bytearray(), array("q", [0]), array("q")
        self._pictures: list[tuple[str, ...]] = []
        for conversation in conversations:
            tokens.extend(conversation.tokens)
            is_row_label = numpy.array(conversation.labels, dtype=numpy.int64) != IGNORED
            is_label += is_row_label.tobytes()
            num_labels.append(int(is_row_label.sum()))
            starts.append(len(tokens))
            self._pictures.append(conversation.pictures)
        self._tokens_T = numpy.frombuffer(tokens, dtype=numpy.int32)
        self._is_label_T = numpy.frombuffer(is_label, dtype=numpy.bool_)
        self._starts = numpy.frombuffer(starts, dtype=numpy.int64)
        num_pictures_I = numpy.array([len(names) for names in self._pictures], dtype=numpy.int64)
        self.lengths_I = numpy.diff(self._starts) + num_pictures_I * (num_image_tokens - 1)
        self.num_labels_I = numpy.frombuffer(num_labels, dtype=numpy.int64)
        self.has_picture_I = num_pictures_I > 0

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, number: int) -> Conversation:
        cut = slice(self._starts[number], self._starts[number + 1])
        labels = numpy.where(self._is_label_T[cut], self._tokens_T[cut], IGNORED)
        return Conversation(self._tokens_T[cut].tolist(), labels.tolist(), self._pictures[number])

    def digest(self) -> str:
        """Returns the sha256 of everything that is trained on, in its order."""
        sha256 = hashlib.sha256()
        for values in (self._starts, self._tokens_T, self._is_label_T):
            sha256.update(values.tobytes())
        for names in self._pictures:
            sha256.update("\n".join(names).encode() + b"\0")
        return sha256.hexdigest()
