# B batch.
"""SLIP: language and self-supervision on the same batch, around one trunk.

Mu et al., "SLIP: Self-supervision meets Language-Image Pre-training", arXiv 2112.12750, section 3:

    L = L_CLIP + ssl_scale * L_SSL

with DINO in the place of the paper's SimCLR, so that the arm is the sum of two arms of the study. The views of the two
losses are drawn independently, as in the paper. One optimiser trains both, with CLIP's weight decay.
"""

from __future__ import annotations

from torch import Tensor

from components.core.data.batch import Batch
from components.core.models.trunk import Trunk
from components.core.objectives.clip import ClipObjective
from components.core.objectives.dino import DinoObjective
from components.core.objectives.objective import Embeddings, LossAndMetrics, Objective


class SlipObjective(Objective):
    """The sum of both losses; the trunk that both train is exported, not DINO's teacher, because the text tower
    was fitted to it.

    Args:
        clip, dino: both around the same trunk; the view_index of clip is not below dino's number of views.
        ssl_scale: weight of DINO's loss; CLIP's is 1.
    """

    is_separable = False

    def __init__(self, clip: ClipObjective, dino: DinoObjective, *, ssl_scale: float = 1.0) -> None:
        super().__init__()
        assert clip.trunk is dino.student, "clip and dino share the trunk"
        if clip.seed == dino.seed and clip.view_index < len(dino.views):
            raise ValueError(
                f"view_index={clip.view_index} of clip is one of dino's {len(dino.views)} views: give a number from "
                f"{len(dino.views)} on, or the crops of the two losses are not independent."
            )
        # a plain attribute, so that weights are saved once, under clip.trunk
        trunk = dino.student
        del dino.student
        dino.__dict__["student"] = trunk
        self.clip, self.dino, self.ssl_scale = clip, dino, ssl_scale

    @property
    def trunk(self) -> Trunk:  # type: ignore[override]
        """The trunk that both losses train."""
        return self.clip.trunk

    def embed(self, batch: Batch, step: int) -> Embeddings:
        """Returns CLIP's embeddings and, once per sample, DINO's loss and metrics of this (micro-)batch."""
        loss, metrics = self.dino.loss(batch, step)
        scalars = {"dino_loss": loss} | {name: value for name, value in metrics.items() if name != "loss"}
        return self.clip.embed(batch, step) | {name: value.expand(len(batch)) for name, value in scalars.items()}

    def loss_of(self, embeddings: Embeddings, step: int) -> LossAndMetrics:
        """Returns the weighted sum; the two losses are `clip_loss` and `dino_loss` among the metrics."""
        clip_loss, clip_metrics = self.clip.loss_of(embeddings, step)
        means = {name: rows_B.mean() for name, rows_B in embeddings.items() if rows_B.ndim == 1}
        loss = clip_loss + self.ssl_scale * means["dino_loss"]
        metrics = clip_metrics | {name: value.detach() for name, value in means.items()}
        return loss, metrics | {"loss": loss.detach(), "clip_loss": clip_loss.detach()}

    def before_update(self, step: int) -> None:
        """Keeps DINO's prototypes frozen during its first steps."""
        self.dino.before_update(step)

    def after_update(self, step: int, is_good: Tensor) -> None:
        """Clamps the logit scale; moves centre and teacher."""
        self.clip.after_update(step, is_good)
        self.dino.after_update(step, is_good)

    def weight_decay(self, step: int) -> float:
        """Returns CLIP's."""
        return self.clip.weight_decay(step)
