# B batch, T text tokens, M tokens to predict, V vocabulary.
"""The three trainings of a vision-language model: text alone, projector alone, projector and language model.

The last two are LLaVA-1.5's stages (arXiv 2310.03744): next-token cross-entropy on the caption, then on the replies
only. The first makes the tiny language model able to read the questions; a pretrained one skips it. The encoder is
frozen throughout, so batches bring its features along, and it is no part of these objectives.
"""

import torch.nn.functional as F
from torch import Tensor

from components.core.data.dialogue import IGNORED, DialogueBatch
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.models.turns import text_logits
from components.core.objectives.objective import LossAndMetrics, Objective


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
