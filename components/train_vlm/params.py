"""Parameters of train_vlm."""

import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob, source

TINY = "tiny"
PARALLEL = ("ddp", "fsdp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Puts a frozen encoder before a causal language model, as LLaVA-1.5 does, in two training stages."""

    checkpoint: str = source(
        help="encoder from pretrain, or a public one as timm:NAME, open_clip:MODEL@TAG or hf:NAME",
        kind="Model",
        libraries=("timm", "open_clip", "hf"),
    )
    shards: str = source(
        help="pictures with captions and conversations from build_shards; not looked at where `tune_data` is given",
        kind="Dataset",
        may_be_empty=True,
    )
    language_model: str = knob(
        "tiny", help="`tiny` to make a small one on the spot, else a name or path for transformers' from_pretrained"
    )
    align_data: str = knob(
        "", help="stage 1: address of captions in LLaVA's layout (blip_laion_cc_sbu_558k.json); empty: those of shards"
    )
    align_pictures: str = knob("", help="stage 1: folder of their pictures, or of tars; empty: where the file is")
    tune_data: str = knob(
        "", help="stage 2: address of conversations in LLaVA's layout (llava_v1_5_mix665k.json); empty: those of shards"
    )
    tune_pictures: str = knob("", help="stage 2: folder of their pictures, or of tars; empty: where the file is")
    max_left_out: float = knob(
        0.02, help="most that may be left out of such data: records that can't be used, broken pictures", low=0, high=1
    )
    num_reader_threads: int = knob(2, help="threads that read and prepare pictures", low=1, high=256)
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
    max_length: int = knob(
        128, help="longest conversation in tokens, those of pictures counted but for `tiny`", low=8, high=1_000_000
    )
    lora_rank: int = knob(0, help="stage 2: rank of LoRA on the language model; 0: all of it trains", low=0, high=4096)
    lora_alpha: int = knob(16, help="stage 2: LoRA's factor, over its rank", low=0)
    parallel: str = knob("ddp", help="several ranks hold copies, or each a share of everything", choices=PARALLEL)
    num_micro_batches: int = knob(1, help="parts of a rank's batch, one after the other", low=1, high=100_000)
    checkpoint_activations: bool = knob(False, help="compute activations again in the backward pass: less memory")
    clip_norm: float = knob(1.0, help="largest norm of the whole gradient", low=0)
    checkpoint_every_steps: int = knob(200, help="steps between two checkpoints", low=1)
    log_every_steps: int = knob(10, help="steps between two points of the curves", low=1)
    seed: int = knob(
        0, help="seed of initialisation and order; the encoder's replicate is added", low=0, high=2**31 - 1
    )

    def knobs(self) -> dict[str, object]:
        """Leaves out by how many threads pictures are read."""
        return {name: value for name, value in super().knobs().items() if name != "num_reader_threads"}

    def conflicts(self) -> Iterator[str]:
        """Refuses a width that the heads don't divide, half of LLaVA's data, and what the tiny model can't do."""
        if self.tiny_width % self.tiny_heads:
            yield f"--tiny_width={self.tiny_width} is no multiple of --tiny_heads={self.tiny_heads}: change one."
        if not (self.shards.strip() or self.tune_data):
            yield "--shards is empty: give build_shards' instruct shards, or --align_data and --tune_data."
        if bool(self.align_data) != bool(self.tune_data):
            yield "--align_data and --tune_data belong together: give both, or neither."
        for name in ("align", "tune"):
            if getattr(self, f"{name}_pictures") and not getattr(self, f"{name}_data"):
                yield f"--{name}_pictures={getattr(self, name + '_pictures')} belongs to --{name}_data: give that too."
        if self.language_model == TINY:
            yield from (f"--{name} is for a pretrained --language_model: give one." for name in self._not_for_tiny())

    def _not_for_tiny(self) -> Iterator[str]:
        wanted = {"tune_data": "", "lora_rank": 0, "parallel": "ddp", "checkpoint_activations": False}
        yield from (f"{name}={getattr(self, name)}" for name, value in wanted.items() if getattr(self, name) != value)
