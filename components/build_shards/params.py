"""Parameters of build_shards."""

import codecs
import dataclasses
from collections.abc import Iterator

from components.runtime.params import StageParams, knob, source

SYNTHETIC = "synthetic"
LABELLED_SETS = ("imagenet", "imagenetv2", "cifar10", "cifar10.1", "cifar100", "cub200", "flowers102", "cars")
CHANGE_NO_BYTE = ("num_workers", "num_pods", "pod_index", "downloads_at_once", "downloads_per_host")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Turns pictures into deterministic WebDataset shards, or into a multiple-choice benchmark."""

    source_uri: str = knob(
        SYNTHETIC,
        help="`synthetic`, or a folder (path, file:// or s3://) of pictures, tars, or parquet with pictures or URLs",
    )
    purpose: str = knob(
        help="what the data are for: captioned pictures, labelled pictures, conversations, or a VMCBench parquet",
        choices=("pretrain", "probe", "instruct", "benchmark"),
    )
    labelled_set: str = knob(
        "",
        help="the published set that the source is, whose own labels and splits a probe then has; empty: none of them",
        choices=("", *LABELLED_SETS),
    )
    num_samples: int = knob(8000, help="scenes to draw, or the most pictures to keep of a source", low=1, high=10**10)
    test_fraction: float = knob(
        0.25, help="share of a source's pictures that only probe and benchmark see", low=0.01, high=0.9
    )
    seed: int = knob(0, help="seed of the synthetic world and of the split", low=0, high=2**31 - 1)

    image_size_px: int = knob(64, help="short side to which larger pictures are resized", low=16, high=4096)
    jpeg_quality: int = knob(95, help="quality at which a JPEG that had to change is stored", low=50, high=100)
    samples_per_shard: int = knob(500, help="pictures in one tar", low=1, high=100_000)
    min_shards: int = knob(
        16, help="at least so many tars, so that a training can deal them to its streams", low=1, high=100_000
    )

    min_side_px: int = knob(16, help="a picture with a shorter side is rejected", low=1, high=4096)
    max_aspect: float = knob(8.0, help="a picture that is longer than this many times its width is rejected", low=1)
    max_pixels: int = knob(
        100_000_000, help="a picture whose header announces more pixels is rejected unread", low=1, high=10**9
    )
    animated: str = knob(
        "first_frame",
        help="what becomes of an animation: its first frame, or nothing",
        choices=("first_frame", "reject"),
    )
    min_caption_chars: int = knob(1, help="a shorter caption is rejected", low=1, high=1000)
    max_caption_chars: int = knob(2000, help="a longer caption is cut", low=1, high=100_000)
    caption_language: str = knob("", help="ISO 639-1 code of the only language of captions to keep; empty: any")
    caption_fallback: str = knob(
        "", help="encoding of captions that aren't UTF-8, such as `latin-1`; empty: reject them"
    )
    unique_keys: bool = knob(
        True, help="whether equal keys in two tars mean the same sample; false where keys start anew in each tar"
    )
    near_duplicate_bits: int = knob(
        0,
        help="pictures whose perceptual hashes differ in fewer of 64 bits are one picture; 0: only equal pixels",
        low=0,
        high=16,
    )
    exclude: str = source(
        help="shards whose test pictures are left out here, so that no evaluation is trained on",
        kind="Dataset",
        many=True,
        optional=True,
    )
    max_reject_fraction: float = knob(
        0.05, help="the stage fails when a larger share of the input is rejected", low=0, high=1
    )
    max_dead_fraction: float = knob(
        0.5, help="the stage fails when a larger share of the URLs can't be downloaded", low=0, high=1
    )

    num_workers: int = knob(2, help="processes that decode and draw", low=1, high=256)
    num_pods: int = knob(1, help="pods that share the work, each with the same parameters", low=1, high=10_000)
    pod_index: int = knob(0, help="which of the pods this is; 0 puts everything together", low=0, high=9_999)
    downloads_at_once: int = knob(64, help="downloads under way in one worker", low=1, high=10_000)
    downloads_per_host: int = knob(4, help="of these, at most so many from one host", low=1, high=1000)
    download_timeout_s: float = knob(20.0, help="longest time for one download, all tries together", low=0.1, high=3600)
    max_download_bytes: int = knob(20_000_000, help="a larger file is left out", low=1000, high=10**9)
    private_hosts: str = knob(
        "", help="hosts that may be asked although their addresses are private, joined by commas; empty: none"
    )

    def conflicts(self) -> Iterator[str]:
        """Refuses an empty source, a published set that isn't one, and a pod that doesn't exist."""
        if not self.source_uri.strip():
            yield "--source_uri is empty: give `synthetic` or a folder."
        if self.labelled_set and (self.purpose != "probe" or self.source_uri == SYNTHETIC):
            yield (
                f"--labelled_set={self.labelled_set} doesn't go with --purpose={self.purpose} "
                f"--source_uri={self.source_uri}: give --purpose=probe and the set's folder."
            )
        if self.pod_index >= self.num_pods:
            yield f"--pod_index={self.pod_index} is not among --num_pods={self.num_pods}: count from 0."
        if self.caption_fallback and not _is_encoding(self.caption_fallback):
            yield f"--caption_fallback={self.caption_fallback} is no encoding: give one such as latin-1, or nothing."
        if self.min_caption_chars > self.max_caption_chars:
            yield (
                f"--min_caption_chars={self.min_caption_chars} is more than "
                f"--max_caption_chars={self.max_caption_chars}: no caption would be left."
            )

    def knobs(self) -> dict[str, object]:
        """Leaves out what changes no byte: who works, and how much of it at once."""
        return {name: value for name, value in super().knobs().items() if name not in CHANGE_NO_BYTE}


def _is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True
