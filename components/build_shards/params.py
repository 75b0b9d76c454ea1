"""Parameters of build_shards."""

import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob

SYNTHETIC = "synthetic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Turns pictures into deterministic WebDataset shards, or into a multiple-choice benchmark."""

    source_uri: str = knob(
        SYNTHETIC, help="`synthetic` for the synthetic world, else a folder of pictures (path, file:// or s3://)"
    )
    purpose: str = knob(
        help="what the data are for: captioned pictures, labelled pictures, conversations, or a VMCBench parquet",
        choices=("pretrain", "probe", "instruct", "benchmark"),
    )
    num_samples: int = knob(8000, help="scenes to draw, or the most pictures to keep of a folder", low=1, high=10**10)
    test_fraction: float = knob(
        0.25, help="share of the pictures of a folder that only probe and benchmark see", low=0.01, high=0.9
    )
    image_size_px: int = knob(64, help="short side to which larger pictures are resized", low=16, high=4096)
    samples_per_shard: int = knob(500, help="pictures in one tar", low=1, high=100_000)
    min_shards: int = knob(
        16, help="at least so many tars, so that a training can deal them to its streams", low=1, high=100_000
    )
    min_side_px: int = knob(16, help="a picture with a shorter side is rejected", low=1, high=4096)
    max_aspect: float = knob(8.0, help="a picture that is longer than this many times its width is rejected", low=1)
    max_pixels: int = knob(
        100_000_000, help="a picture whose header announces more pixels is rejected unread", low=1, high=10**9
    )
    max_reject_fraction: float = knob(
        0.05, help="the stage fails when a larger share of the input is rejected", low=0, high=1
    )
    num_workers: int = knob(2, help="processes that decode and draw", low=1, high=256)
    seed: int = knob(0, help="seed of the synthetic world and of the split", low=0, high=2**31 - 1)

    def conflicts(self) -> Iterator[str]:
        """Refuses an empty source."""
        if not self.source_uri.strip():
            yield "--source_uri is empty: give `synthetic` or a folder of pictures."

    def knobs(self) -> dict[str, object]:
        """Leaves out the number of workers, which changes no byte."""
        return {name: value for name, value in super().knobs().items() if name != "num_workers"}
