"""Parameters of pretrain."""

import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob, source

ARMS = ("clip", "dino", "siglip", "clip_lm", "slip")
CHANGEABLE = frozenset(  # when a run is resumed: they change no bit of what follows, or only when it is looked at
    {
        "cache_gib",
        "checkpoint_activations",
        "checkpoint_every_steps",
        "is_compiled",
        "keep_checkpoints",
        "log_every_steps",
        "lost_shards",
        "max_nonfinite_steps",
        "num_micro_batches",
        "probe_every_steps",
    }
)
PLACES = ("study", "shard_cache", "shard_cache_gib", "num_reader_threads", "override_settings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Trains one arm's vision encoder; the arms differ in `arm` and in nothing else."""

    arm: str = knob(help="the objective", choices=ARMS)
    shards: str = source(help="captioned shards from build_shards", kind="Dataset")
    study: str = knob(
        "", help="folder where the arms of a study meet, to be held to the same data and seed; empty: none"
    )
    probe_shards: str = source(help="labelled shards to probe with during the training", kind="Dataset", optional=True)
    probe_every_steps: int = knob(
        0, help="steps between two looks by k-NN and zero-shot at 1,500 of their pictures; 0: none", low=0
    )
    seed: int = knob(0, help="seed of initialisation, sample order and augmentation", low=0, high=2**31 - 1)
    replicate: int = knob(0, help="which repetition of the arm this is; added to the seed", low=0, high=9_999)
    num_samples_seen: int = knob(64_000, help="length of the training in samples", low=1, high=10**12)
    batch_size: int = knob(64, help="global batch", low=2, high=1_000_000)
    num_streams: int = knob(
        16, help="canonical streams that the shards are dealt to; each gives batch_size / num_streams", low=1, high=4096
    )
    cache_gib: float = knob(2.0, help="memory for decoded pictures that are kept over epochs", low=0, high=4096)
    shard_cache: str = knob("", help="folder on the node's own disk for shards from S3; empty: none")
    shard_cache_gib: float = knob(100.0, help="most that the node's shards take there", low=0.001, high=100_000)
    num_reader_threads: int = knob(2, help="threads that fetch shards, and as many that decode", low=1, high=256)
    decode_short_side_px: int = knob(
        0, help="a JPEG at least twice this size is decoded at a fraction of it; 0 decodes all pictures whole", low=0
    )
    lost_shards: str = knob(
        "fail",
        help="a shard that can't be read any more ends the training, or is replaced by the next one and counted",
        choices=("fail", "replace"),
    )

    image_size_px: int = knob(48, help="side of a training view", low=8, high=2048)
    patch_size_px: int = knob(8, help="side of a patch", low=1, high=256)
    width: int = knob(96, help="width of the trunk", low=8, high=8192)
    depth: int = knob(4, help="blocks of the trunk", low=1, high=128)
    num_heads: int = knob(4, help="attention heads of the trunk", low=1, high=256)

    learning_rate: float = knob(1e-3, help="peak of the cosine schedule", low=0, high=10)  # STUDY.md 3, S
    warmup_steps: int = knob(50, help="steps of linear warm-up", low=0, high=10**9)
    beta1: float = knob(0.9, help="AdamW's first moment", low=0, high=1)
    beta2: float = knob(0.95, help="AdamW's second moment", low=0, high=1)  # STUDY.md 3, I
    epsilon: float = knob(1e-6, help="AdamW's epsilon", low=0, high=1)
    clip_norm: float = knob(1.0, help="largest norm of the whole gradient", low=0)  # STUDY.md 3, I
    max_nonfinite_steps: int = knob(10, help="steps in a row with a non-finite loss before it stops", low=1)
    checkpoint_every_steps: int = knob(200, help="steps between two checkpoints", low=1)
    log_every_steps: int = knob(10, help="steps between two points of the curves", low=1)

    num_micro_batches: int = knob(
        1, help="parts in which a rank's batch is computed, to save memory", low=1, high=65536
    )
    checkpoint_activations: bool = knob(
        False, help="compute the trunk's blocks again in the backward pass, to save memory"
    )
    is_compiled: bool = knob(False, help="torch.compile of the trunk's blocks")
    keep_checkpoints: int = knob(2, help="checkpoints that are kept; 2 or more survive a damaged one", low=1, high=1000)
    override_settings: bool = knob(False, help="resume although settings differ from the checkpoint's; it is recorded")

    clip_weight_decay: float = knob(0.2, help="CLIP: weight decay", low=0)  # STUDY.md 3, I
    clip_crop_scale_min: float = knob(0.9, help="CLIP: smallest area of the random crop", low=0.01, high=1)  # open_clip
    clip_embed_dim: int = knob(96, help="CLIP: width of the joint embedding", low=1, high=8192)
    text_tokenizer: str = knob("words", help="CLIP: how captions become tokens", choices=("words", "open_clip"))
    text_context: int = knob(16, help="CLIP: longest caption in tokens", low=3, high=512)
    text_width: int = knob(96, help="CLIP: width of the text tower", low=8, high=8192)
    text_depth: int = knob(2, help="CLIP: layers of the text tower", low=1, high=128)
    text_heads: int = knob(4, help="CLIP: attention heads of the text tower", low=1, high=256)

    lm_name: str = knob("tiny", help="CLIP-LM: `tiny` for a small random one, else a name or path for transformers")
    lm_revision: str = knob("main", help="CLIP-LM: branch, tag or commit of a model of the hub")
    lm_pooling: str = knob("last", help="CLIP-LM: which state is the text's", choices=("cls", "mean", "last"))
    lm_trainable_layers: int = knob(2, help="CLIP-LM: last layers that train; the others stay frozen", low=0, high=1000)

    slip_ssl_scale: float = knob(
        1.0, help="SLIP: weight of DINO's loss beside CLIP's", low=0, high=1000
    )  # the SLIP paper

    dino_out_dim: int = knob(1024, help="DINO: prototypes", low=2, high=10**6)
    dino_head_hidden: int = knob(256, help="DINO: hidden width of the head", low=8, high=65536)
    dino_head_bottleneck: int = knob(64, help="DINO: bottleneck of the head", low=4, high=65536)
    dino_num_local_crops: int = knob(4, help="DINO: local crops beside the two global ones", low=0, high=64)
    dino_local_size_px: int = knob(24, help="DINO: side of a local crop", low=4, high=2048)
    dino_global_scale_min: float = knob(0.4, help="DINO: smallest area of a global crop", low=0.01, high=1)  # P
    dino_local_scale_min: float = knob(0.05, help="DINO: smallest area of a local crop", low=0.001, high=1)  # P
    dino_local_scale_max: float = knob(0.4, help="DINO: largest area of a local crop", low=0.001, high=1)  # P
    dino_hue: float = knob(0.1, help="DINO: strength of hue in colour jitter", low=0, high=0.5)  # P
    dino_grey_probability: float = knob(0.2, help="DINO: probability of a grey view", low=0, high=1)
    dino_flip_probability: float = knob(0.5, help="DINO: probability of a left-right flip", low=0, high=1)
    dino_student_temperature: float = knob(0.1, help="DINO: student temperature", low=0.001, high=10)
    dino_teacher_temperature_start: float = knob(0.04, help="DINO: first teacher temperature", low=0.001, high=10)
    dino_teacher_temperature_end: float = knob(0.07, help="DINO: last teacher temperature", low=0.001, high=10)
    dino_teacher_warmup_steps: int = knob(300, help="DINO: steps from first to last teacher temperature", low=0)
    dino_teacher_momentum: float = knob(0.996, help="DINO: first momentum of the teacher, rises to 1", low=0, high=1)
    dino_centre_momentum: float = knob(0.9, help="DINO: momentum of the centre", low=0, high=1)
    dino_freeze_last_layer_steps: int = knob(100, help="DINO: steps with a frozen last layer", low=0)
    dino_weight_decay_start: float = knob(0.04, help="DINO: first weight decay", low=0)
    dino_weight_decay_end: float = knob(0.4, help="DINO: last weight decay", low=0)

    def knobs(self) -> dict[str, object]:
        """Leaves out what changes no bit of the encoder: where it is worked on, and by how many threads."""
        return {name: value for name, value in super().knobs().items() if name not in PLACES}

    def conflicts(self) -> Iterator[str]:
        """Refuses sizes that don't divide one another."""
        pairs = (
            ("image_size_px", "patch_size_px"),
            ("dino_local_size_px", "patch_size_px"),
            ("width", "num_heads"),
            ("text_width", "text_heads"),
            ("batch_size", "num_streams"),
        )
        for whole, part in pairs:
            if getattr(self, whole) % getattr(self, part):
                yield (
                    f"--{whole}={getattr(self, whole)} is no multiple of --{part}={getattr(self, part)}: "
                    "change one of them."
                )
        if self.num_samples_seen < self.batch_size:
            yield (
                f"--num_samples_seen={self.num_samples_seen} is less than one batch of {self.batch_size}: "
                "train longer or on smaller batches."
            )
        if self.probe_every_steps and not self.probe_shards:
            yield f"--probe_every_steps={self.probe_every_steps} probes nothing: give --probe_shards, or 0."
        if self.warmup_steps >= self.num_steps:
            yield f"--warmup_steps={self.warmup_steps} is the whole run of {self.num_steps} steps: shorten it."

    @property
    def own_seed(self) -> int:
        """Seed of this repetition."""
        return self.seed + self.replicate

    @property
    def num_steps(self) -> int:
        """Optimiser steps in the whole training."""
        return max(1, self.num_samples_seen // self.batch_size)
