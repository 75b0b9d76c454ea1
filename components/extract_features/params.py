"""Parameters of extract_features."""

import dataclasses

from components.runtime.params import StageParams, knob, source

LIBRARIES = ("timm", "open_clip", "hf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Writes an encoder's features of every picture of a labelled set."""

    checkpoint: str = source(
        help="encoder from pretrain, or a public one as timm:NAME, open_clip:MODEL@TAG or hf:NAME",
        kind="Model",
        libraries=LIBRARIES,
    )
    shards: str = source(help="labelled shards from build_shards", kind="Dataset")
    layer: int = knob(
        -1,
        help="block whose output is taken, counted from the end: -1 the last, after the final norm; -2 the one before "
        "it, as it leaves the block",
        low=-1000,
        high=-1,
    )
    batch_size: int = knob(256, help="pictures in one forward pass", low=1, high=100_000)
    num_reader_threads: int = knob(2, help="threads that fetch and decode while the encoder works", low=1, high=256)

    def knobs(self) -> dict[str, object]:
        """Leaves out what changes no bit of the features."""
        return {name: value for name, value in super().knobs().items() if name != "num_reader_threads"}
