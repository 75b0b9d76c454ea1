"""Parameters of extract_features."""

import dataclasses

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Writes an encoder's features of every picture of a labelled set."""

    checkpoint: str = source(help="encoder from pretrain", kind="Model")
    shards: str = source(help="labelled shards from build_shards", kind="Dataset")
    batch_size: int = knob(256, help="pictures in one forward pass", low=1, high=100_000)
