"""Parameters of train_vlm."""

import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Puts a frozen encoder before a causal language model, as LLaVA-1.5 does, in two training stages."""

    checkpoint: str = source(help="encoder from pretrain", kind="Model")
    shards: str = source(help="pictures with captions and conversations from build_shards", kind="Dataset")
    language_model: str = knob(
        "tiny", help="`tiny` to make a small one on the spot, else a name or path for transformers' from_pretrained"
    )
    tiny_width: int = knob(64, help="tiny: width", low=16, high=4096)
    tiny_depth: int = knob(1, help="tiny: layers", low=1, high=64)
    tiny_heads: int = knob(4, help="tiny: attention heads", low=1, high=64)
    text_steps: int = knob(200, help="tiny: steps on text alone, so that it can read the questions", low=0)
    text_learning_rate: float = knob(5e-3, help="tiny: peak learning rate on text alone", low=0, high=10)
    text_batch_size: int = knob(32, help="tiny: batch of text alone", low=1, high=100_000)
    align_steps: int = knob(100, help="stage 1: steps of the projector alone, on captions", low=1)
    align_learning_rate: float = knob(1e-3, help="stage 1: peak learning rate", low=0, high=10)  # STUDY.md 3
    align_batch_size: int = knob(64, help="stage 1: batch", low=1, high=100_000)
    tune_steps: int = knob(400, help="stage 2: steps of projector and language model, on conversations", low=1)
    tune_learning_rate: float = knob(4e-3, help="stage 2: peak learning rate", low=0, high=10)
    tune_batch_size: int = knob(32, help="stage 2: batch", low=1, high=100_000)
    questions_per_picture: int = knob(4, help="questions about one picture in one step", low=1, high=1000)
    warmup_fraction: float = knob(0.03, help="share of each stage that is warm-up", low=0, high=0.9)  # STUDY.md 3
    max_length: int = knob(128, help="longest conversation in text tokens", low=8, high=1_000_000)
    clip_norm: float = knob(1.0, help="largest norm of the whole gradient", low=0)
    checkpoint_every_steps: int = knob(200, help="steps between two checkpoints", low=1)
    log_every_steps: int = knob(10, help="steps between two points of the curves", low=1)
    seed: int = knob(
        0, help="seed of initialisation and order; the encoder's replicate is added", low=0, high=2**31 - 1
    )

    def conflicts(self) -> Iterator[str]:
        """Refuses a width that the heads don't divide."""
        if self.tiny_width % self.tiny_heads:
            yield f"--tiny_width={self.tiny_width} is no multiple of --tiny_heads={self.tiny_heads}: change one."
