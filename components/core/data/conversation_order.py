"""The order of conversations: a pure function of (kinds, lengths, seed), the same for every arm and number of ranks.

Batches hold conversations with pictures only or without any only, as LLaVA's sampler with `group_by_modality_length`
makes them (Liu et al., arXiv 2310.03744, appendix): a batch of text alone spares the work on pictures. In each epoch
each kind is shuffled and cut into batches; what is left over of both is one mixed batch where it fills one, and is not
used in this epoch otherwise. The batches come in random order. Within each, rows go from long to short and are dealt
to the ranks in turn, forwards and backwards, so that ranks have equal numbers and like lengths.
"""

from collections.abc import Iterator

import numpy
from numpy.typing import NDArray

from components.core.data.conversation_store import Conversations


class ConversationOrder:
    """Says which conversation comes when.

    Args:
        conversations: What is trained on.
        seed: Seed of the shuffles.
        batch_size: Rows of the global batch.

    Attributes:
        steps_per_epoch: Batches in which each conversation comes at most once.

    Raises:
        ValueError: There are fewer conversations than a batch has.
    """

    def __init__(self, conversations: Conversations, *, seed: int, batch_size: int) -> None:
        if batch_size > len(conversations):
            raise ValueError(
                f"batch_size={batch_size} is more than the {len(conversations)} conversations: use a smaller batch or "
                "more conversations."
            )
        self.conversations, self.seed, self.batch_size = conversations, seed, batch_size
        self.steps_per_epoch = len(conversations) // batch_size

    def batches(self, start_step: int = 0) -> Iterator[NDArray[numpy.int64]]:
        """Yields the numbers of each global batch's conversations from a step on, without end, the longest first."""
        epoch, first = divmod(start_step, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[first:]
            epoch, first = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[NDArray[numpy.int64]]:
        rng = numpy.random.default_rng([self.seed, epoch])
        size, has_picture_I = self.batch_size, self.conversations.has_picture_I
        batches, rest = [], []
        for kind in (numpy.flatnonzero(has_picture_I), numpy.flatnonzero(~has_picture_I)):
            shuffled = rng.permutation(kind)
            num_whole = len(shuffled) // size
            batches += list(shuffled[: num_whole * size].reshape(num_whole, size))
            rest.append(shuffled[num_whole * size :])
        mixed = numpy.concatenate(rest)[:size]
        if len(mixed) == size:
            batches.append(mixed)
        lengths_I = self.conversations.lengths_I
        in_order = [batches[number] for number in rng.permutation(len(batches))]
        return [rows[numpy.argsort(-lengths_I[rows], kind="stable")] for rows in in_order]


def share_of(rows: NDArray[numpy.int64], rank: int, world_size: int) -> list[int]:
    """Returns a rank's rows of a global batch that goes from long to short."""
    rounds = rows.reshape(-1, world_size).copy()
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds[:, rank].tolist()
