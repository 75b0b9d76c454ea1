# B batch, K pictures, C channels, S side in pixels, N image tokens, T text tokens, M of them, E width, V vocabulary.
"""The trainings of a vision-language model: LLaVA-1.5's two stages, and those of the tiny language model.

LLaVA-1.5's (arXiv 2310.03744) are next-token cross-entropy on captions with the projector alone, then on replies with
projector and language model. The tiny language model first learns from text alone to read the questions, and then
takes several of them at once about each picture; its batches bring the frozen encoder's features along.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.core.data.conversation import IGNORED
from components.core.data.conversation_batches import ConversationBatch
from components.core.data.dialogue import DialogueBatch
from components.core.models.interleave import interleave, rows
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.models.turns import text_logits
from components.core.models.vision_tower import VisionTower
from components.core.objectives.objective import LossAndMetrics, Objective

TOKENS_AT_ONCE = 2048  # of which all words' scores are in memory: 0.25 GiB for 32,000 words in float32


class ConversationObjective(Objective):
    """Conversations with pictures anywhere; trains the projector, and the language model if wanted.

    Args:
        tower: Frozen; on the batches' device already.
        projector: Trained.
        language_model: Trained as far as its parameters want gradients.
        trains_language_model: Else all of it is frozen here.
    """

    def __init__(
        self, tower: VisionTower, projector: Projector, language_model: LanguageModel, trains_language_model: bool
    ) -> None:
        super().__init__()
        self.projector, self.language_model = projector, language_model
        self._held = (tower,)  # in a tuple, so that it is neither saved nor sharded
        if not trains_language_model:
            language_model.requires_grad_(False)

    def unsaved(self) -> list[nn.Parameter]:
        """Returns what is frozen of the language model."""
        return [parameter for parameter in self.language_model.parameters() if not parameter.requires_grad]

    def loss(self, batch: ConversationBatch, step: int) -> LossAndMetrics:
        """Returns the mean over rows of (sum of a row's cross-entropies * its weight), and metrics.

        Metrics are the loss, the share of replies (or captions) whose first token is right, and that of all tokens to
        predict that are, each after the right ones. The host waits for the device at no place of this module.
        """
        pictures_BKNE, zero = self._projected(batch.pictures_BKCSS)
        row = interleave(self.language_model, pictures_BKNE, batch.tokens_BT, batch.is_text_BT)
        states_BSE = self.language_model.states(row.vectors_BSE)
        before_BTE = rows(states_BSE, (row.starts_BT - 1).clamp(min=0))  # the place before each token predicts it
        labels_BT = batch.labels_BT.clone()
        labels_BT[:, 0] = IGNORED  # nothing stands before it
        losses_BT, is_right_BT = self._compared(before_BTE, labels_BT)
        loss = ((losses_BT.sum(dim=1) + zero) * batch.weights_B).mean()
        is_label_BT = labels_BT != IGNORED
        is_first_BT = is_label_BT.clone()
        is_first_BT[:, 1:] &= ~is_label_BT[:, :-1]
        return loss, {
            "loss": loss.detach(),
            "reply_accuracy": (is_right_BT & is_first_BT).sum() / is_first_BT.sum().clamp(min=1),
            "token_accuracy": (is_right_BT.sum(dim=1) * batch.weights_B).mean(),
        }

    def _projected(self, pictures_BKCSS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns pictures as word vectors (B, K, N, E), and 0 with a gradient of 0 for the whole projector.

        A batch without pictures uses no parameter of it, and ranks that share a gradient wait for every one.
        """
        tower = self._held[0]
        batch, num_pictures = pictures_BKCSS.shape[:2]
        if num_pictures:
            projected = self.projector(tower(pictures_BKCSS.flatten(0, 1)))
            return projected.unflatten(0, (batch, num_pictures)), projected.new_zeros(())
        nothing_11E = self.projector(next(self.projector.parameters()).new_zeros(1, 1, tower.width))
        return nothing_11E.new_zeros(batch, 0, tower.num_tokens, nothing_11E.shape[2]), nothing_11E.sum() * 0

    def _compared(self, states_BTE: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Returns each token's cross-entropy, 0 where IGNORED, and whether it is the likeliest, both (B, T).

        Scores of all words at all places would take more memory than the rest of a step: they are made some places at
        a time, and again in the backward pass.
        """
        found = [
            checkpoint(self._compared_some, states_ME, labels_M, use_reentrant=False, preserve_rng_state=False)
            for states_ME, labels_M in zip(
                states_BTE.flatten(0, 1).split(TOKENS_AT_ONCE), labels_BT.flatten().split(TOKENS_AT_ONCE), strict=True
            )
        ]
        losses, is_right = (torch.cat(parts).view_as(labels_BT) for parts in zip(*found, strict=True))
        return losses, is_right

    def _compared_some(self, states_ME: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        logits_MV = self.language_model.scores(states_ME).float()
        losses_M = F.cross_entropy(logits_MV, labels_M, ignore_index=IGNORED, reduction="none")
        return losses_M, logits_MV.detach().argmax(dim=1) == labels_M


class TextObjective(Objective):
    """Replies after words in the place of a picture; trains the language model."""

    def __init__(self, language_model: LanguageModel) -> None:
        super().__init__()
        self.language_model = language_model

    def loss(self, batch: DialogueBatch, step: int) -> LossAndMetrics:
        """Returns the loss, and the share of replies that begin right."""
        return reply_loss(self.language_model, self.language_model.embed(batch.prefix), batch)


class AlignObjective(Objective):
    """Captions after pictures; trains the projector."""

    def __init__(self, projector: Projector, language_model: LanguageModel) -> None:
        super().__init__()
        self.projector = projector
        self._frozen = (language_model,)  # in a tuple, so that it is neither trained nor saved

    def loss(self, batch: DialogueBatch, step: int) -> LossAndMetrics:
        """Returns the loss, and 0 for the share of replies that begin right: captions reply to nothing."""
        return reply_loss(self._frozen[0], self.projector(batch.prefix), batch)


class TuneObjective(Objective):
    """Replies after pictures and questions; trains projector and language model."""

    def __init__(self, projector: Projector, language_model: LanguageModel) -> None:
        super().__init__()
        self.projector, self.language_model = projector, language_model

    def loss(self, batch: DialogueBatch, step: int) -> LossAndMetrics:
        """Returns the loss, and the share of replies that begin right."""
        return reply_loss(self.language_model, self.projector(batch.prefix), batch)


def reply_loss(language_model: LanguageModel, prefix_BNE: Tensor, batch: DialogueBatch) -> LossAndMetrics:
    """Returns the mean cross-entropy over all tokens of all replies, and metrics."""
    is_label_BT = batch.labels_BT != IGNORED
    logits_MV = text_logits(language_model, prefix_BNE, batch.tokens_BT, batch.turns_BT, is_label_BT).float()
    labels_M = batch.labels_BT[is_label_BT]
    loss = F.cross_entropy(logits_MV, labels_M)
    is_first_BT = is_label_BT.clone()
    is_first_BT[:, 1:] &= ~is_label_BT[:, :-1]
    is_first_BT[:, 0] = False  # a caption, which replies to nothing
    is_first_M = is_first_BT[is_label_BT]
    is_right_M = (logits_MV.detach().argmax(dim=1) == labels_M) & is_first_M
    return loss, {"loss": loss.detach(), "reply_accuracy": is_right_M.sum() / is_first_M.sum().clamp(min=1)}
