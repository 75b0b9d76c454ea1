# B local batch, C channels, S side, T context length, D width, E embedding.
"""CLIP and SigLIP: an image and its caption find each other among all pairs of the batch.

Radford et al., arXiv 2103.00020. One objective with two losses, softmax (contrastive.py) and sigmoid (siglip.py):
trunk, text tower, tokenizer, projection, crops and weight decay are the same, so that the two arms differ in the loss
only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.core.data.augment import View, make_view
from components.core.data.batch import Batch
from components.core.data.tokenizer import Tokenizer
from components.core.models.language_tower import LanguageTower
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.contrastive import GREATEST_LOGIT_SCALE, SoftmaxLoss
from components.core.objectives.objective import Embeddings, LossAndMetrics, Objective
from components.core.objectives.siglip import SigmoidLoss

PAIR_LOSSES: dict[str, type[SoftmaxLoss] | type[SigmoidLoss]] = {"softmax": SoftmaxLoss, "sigmoid": SigmoidLoss}


class ClipObjective(Objective):
    """A loss over pairs of the trunk's CLS token and the text tower's output, both projected linearly.

    Args:
        trunk: the encoder, exported as it is.
        text_tower: gives the embedding's width.
        tokenizer: made for the tower's context.
        view: how images are cropped; CLIP's paper recipe is a crop of 90 to 100 % of the area and nothing
            else.
        seed: seed of projection and crops.
        weight_decay: constant.
        pair_loss: softmax for CLIP, sigmoid for SigLIP.
        view_index: number of the view among those that are drawn from a sample with this seed.
    """

    is_separable = False
    pair_loss: SoftmaxLoss | SigmoidLoss

    def __init__(
        self,
        trunk: Trunk,
        text_tower: TextTower | LanguageTower,
        tokenizer: Tokenizer,
        *,
        view: View,
        seed: int,
        weight_decay: float = 0.2,
        pair_loss: str = "softmax",
        view_index: int = 0,
    ) -> None:
        super().__init__()
        if pair_loss not in PAIR_LOSSES:
            raise ValueError(f"pair_loss={pair_loss!r}: choose one of {', '.join(PAIR_LOSSES)}.")
        self.trunk, self.text_tower = trunk, text_tower
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            projection_DE = torch.randn(trunk.width, text_tower.embedding_dim) * trunk.width**-0.5
        self.projection_DE = nn.Parameter(projection_DE)
        self.pair_loss = PAIR_LOSSES[pair_loss]()
        self.tokenizer, self.view, self.seed, self._weight_decay = tokenizer, view, seed, weight_decay
        self.view_index = view_index

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the scale of the cosines."""
        return self.pair_loss.logit_scale

    def embed(self, batch: Batch, step: int) -> Embeddings:
        """Returns the unit vectors (B, E) of images and captions, as `image` and `text`."""
        images_BCSS = make_view(
            batch.images_BCHW,
            batch.sizes_B2,
            batch.ids_B,
            batch.epochs_B,
            view=self.view,
            seed=self.seed,
            index=self.view_index,
        )
        tokens_BT = self.tokenizer(batch.captions).to(images_BCSS.device)
        return {"image": self.embed_images(images_BCSS), "text": self.embed_tokens(tokens_BT)}

    def loss_of(self, embeddings: Embeddings, step: int) -> LossAndMetrics:
        """Returns the loss of this rank's pairs against all ranks', and the share of images that find their
        caption first.
        """
        return self.pair_loss(embeddings["image"], embeddings["text"])

    def embed_images(self, images_BCSS: Tensor) -> Tensor:
        """Returns unit vectors (B, E) of images in [0, 1]."""
        return F.normalize((self.trunk(images_BCSS) @ self.projection_DE).float(), dim=1)

    def embed_tokens(self, tokens_BT: Tensor) -> Tensor:
        """Returns unit vectors (B, E) of token ids."""
        return F.normalize(self.text_tower(tokens_BT).float(), dim=1)

    def unsaved(self) -> list[nn.Parameter]:
        """Returns the frozen layers of a language tower."""
        return [parameter for parameter in self.text_tower.parameters() if not parameter.requires_grad]

    def weight_decay(self, step: int) -> float:
        """Returns the constant of the constructor."""
        return self._weight_decay

    @torch.no_grad()
    def after_update(self, step: int, is_good: Tensor) -> None:
        """Clamps the logit scale, as open_clip does for both losses; after a skipped step it is clamped already."""
        self.logit_scale.clamp_(0, GREATEST_LOGIT_SCALE)
