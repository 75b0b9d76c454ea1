# B local batch, G global batch (all ranks), C channels, S side, T context length, D width, E embedding.
"""CLIP: an image and its caption find each other among all pairs of the batch.

Radford et al., arXiv 2103.00020, figure 3; equal to open_clip's ClipLoss(local_loss=True,
gather_with_grad=True).

    L = 1/2 mean_i [ CE(s <u_i, v_j>_j, i) + CE(s <v_i, u_j>_j, i) ]     u, v unit vectors, s = exp(logit
    scale) <= 100
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from components.core.data.augment import View, make_view
from components.core.data.batch import Batch
from components.core.data.tokenizer import Tokenizer
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk
from components.core.objectives.objective import Objective

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
GREATEST_LOGIT_SCALE = math.log(100)


class ClipObjective(Objective):
    """The softmax contrastive loss between the trunk's CLS token and the text tower, both projected linearly.

    Args:
        trunk: the encoder, exported as it is.
        text_tower: gives the embedding's width.
        tokenizer: made for the tower's context.
        view: how images are cropped; CLIP's paper recipe is a crop of 90 to 100 % of the area and nothing
            else.
        seed: seed of projection and crops.
        weight_decay: constant.
    """

    def __init__(
        self,
        trunk: Trunk,
        text_tower: TextTower,
        tokenizer: Tokenizer,
        *,
        view: View,
        seed: int,
        weight_decay: float = 0.2,
    ) -> None:
        super().__init__()
        self.trunk, self.text_tower = trunk, text_tower
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            projection_DE = torch.randn(trunk.width, text_tower.embedding_dim) * trunk.width**-0.5
        self.projection_DE = nn.Parameter(projection_DE)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.tokenizer, self.view, self.seed, self._weight_decay = tokenizer, view, seed, weight_decay

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss over the global batch and the share of images that find their caption first."""
        images_BCSS = make_view(
            batch.images_BCHW,
            batch.sizes_B2,
            batch.ids_B,
            batch.epochs_B,
            view=self.view,
            seed=self.seed,
            index=0,
        )
        tokens_BT = self.tokenizer(batch.captions).to(images_BCSS.device)
        image_BE = self.embed_images(images_BCSS)
        text_BE = self.embed_tokens(tokens_BT)
        loss, logits_BG = contrastive_loss(image_BE, text_BE, self.logit_scale)
        labels_B = _labels(logits_BG)
        return loss, {
            "loss": loss.detach(),
            "logit_scale": self.logit_scale.detach().exp(),
            "batch_accuracy": (logits_BG.detach().argmax(dim=1) == labels_B).float().mean(),
        }

    def embed_images(self, images_BCSS: Tensor) -> Tensor:
        """Returns unit vectors (B, E) of images in [0, 1]."""
        return F.normalize((self.trunk(images_BCSS) @ self.projection_DE).float(), dim=1)

    def embed_tokens(self, tokens_BT: Tensor) -> Tensor:
        """Returns unit vectors (B, E) of token ids."""
        return F.normalize(self.text_tower(tokens_BT).float(), dim=1)

    def weight_decay(self, step: int) -> float:
        """Returns the constant of the constructor."""
        return self._weight_decay

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Clamps the logit scale."""
        self.logit_scale.clamp_(0, GREATEST_LOGIT_SCALE)


def contrastive_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loss of this rank's pairs against all ranks', and the image logits (B, G).

    Args:
        image_BE: unit vectors of this rank's images.
        text_BE: unit vectors of their captions.
        logit_scale: logarithm of the scale.
    """
    scale = logit_scale.exp()
    image_logits_BG = scale * image_BE @ _gather(text_BE).mT
    text_logits_BG = scale * text_BE @ _gather(image_BE).mT
    labels_B = _labels(image_logits_BG)
    loss = (F.cross_entropy(image_logits_BG, labels_B) + F.cross_entropy(text_logits_BG, labels_B)) / 2
    return loss, image_logits_BG


def _labels(logits_BG: Tensor) -> Tensor:
    """Returns where in the global batch this rank's pairs are."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return torch.arange(len(logits_BG), device=logits_BG.device) + rank * len(logits_BG)


def _gather(local_BE: Tensor) -> Tensor:
    """Returns the rows of all ranks, with gradients to all of them."""
    if not dist.is_initialized():
        return local_BE
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(local_BE))
