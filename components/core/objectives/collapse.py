"""How self-distillation collapses, told from the metrics that it logs anyway.

Caron et al., arXiv 2104.14294, section 5.3 and figure 7: without the centre one prototype takes all (the entropy of
the teacher's answers goes to 0), without the sharpening the answers become uniform (their entropy goes to ln K).
Either way the loss says nothing about the picture any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

NEAR = 0.99  # share of ln K from which an entropy or a loss counts as having reached it
FEW_PROTOTYPES = 0.9  # share of ln K: the mean answer uses no more than K^0.1 prototypes evenly
LEAST_FEATURE_STD = 0.01  # independent directions have 1


def collapse(metrics: Mapping[str, float], out_dim: int) -> str:
    """Returns in a sentence how an arm with DINO's loss has collapsed; empty where it hasn't.

    One report may be bad luck, for instance of a batch of few classes: act on several in a row.

    Args:
        metrics: of DinoObjective, or of SlipObjective, where the loss is `dino_loss`.
        out_dim: number of prototypes K.
    """
    loss = metrics["dino_loss"] if "dino_loss" in metrics else metrics["loss"]
    entropy, divergence = metrics["teacher_entropy"], metrics["kl_to_uniform"]
    centre_norm, feature_std = metrics["centre_norm"], metrics["feature_std"]
    greatest = math.log(out_dim)
    values = (
        f"loss {loss:.3g}, teacher_entropy {entropy:.3g}, kl_to_uniform {divergence:.3g} with ln K = {greatest:.3g}, "
        f"centre_norm {centre_norm:.3g}, feature_std {feature_std:.3g}"
    )
    if not all(map(math.isfinite, (loss, entropy, divergence, centre_norm, feature_std))):
        return f"DINO's numbers are not finite: {values}."
    if entropy >= NEAR * greatest and loss >= NEAR * greatest:
        return f"DINO has collapsed to a uniform answer: {values}; lower the teacher's temperature."
    if entropy <= (1 - NEAR) * greatest and divergence >= FEW_PROTOTYPES * greatest:
        return f"DINO has collapsed to one prototype: {values}; raise the teacher's temperature or look at the centre."
    if feature_std < LEAST_FEATURE_STD:
        return f"DINO has collapsed to one feature for all pictures: {values}; lower learning_rate."
    # every cosine of the common answer would have to be 1
    if centre_norm >= NEAR * math.sqrt(out_dim):
        return f"DINO's prototypes have collapsed to one direction: {values}; lower learning_rate."
    return ""
