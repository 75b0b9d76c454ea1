"""Tested pictures that the encoder was trained on: equal pixels, found by the hashes that build_shards wrote."""

from collections.abc import Sequence

import pyarrow
import pyarrow.compute

from components.core.data.sample_table import SAMPLES_NAME, read_sample_table
from components.runtime.errors import BadInput
from components.runtime.stage import Stage
from components.runtime.storage import Folder


def count_leaks(stage: Stage, ids: Sequence[int]) -> dict[str, int]:
    """Returns how many pictures were tested, and how many of them are among those that the encoder was trained on.

    Nothing where no pretraining shards are given.

    Args:
        stage: With the inputs `features`, and `shards` and `pretrain_shards` where given.
        ids: The tested pictures, as places in the labelled shards.

    Raises:
        BadInput: The labelled shards are not the ones that the features are of, or there are no hashes.
    """
    if "pretrain_shards" not in stage.inputs:
        return {}
    labelled = stage.folder("shards")
    if stage.inputs["shards"].digest != stage.inputs["features"].summary["shards"]:
        raise BadInput(f"--shards={labelled.uri} is not what --features are of: give the shards they were made from.")
    tested = _hashes(labelled, "shards").take(pyarrow.array(ids))
    seen = _hashes(stage.folder("pretrain_shards"), "pretrain_shards")
    is_seen = pyarrow.compute.is_in(tested, value_set=seen)
    found = {"num_test": len(tested), "num_in_train": pyarrow.compute.sum(is_seen, min_count=0).as_py()}
    stage.log("leaks_counted", **found)
    return found


def _hashes(folder: Folder, name: str) -> pyarrow.ChunkedArray:
    """Returns the hash of each sample's pixels, in the order of the samples."""
    try:
        return read_sample_table(folder, ["sha256"])["sha256"]
    except FileNotFoundError:
        raise BadInput(
            f"--{name}={folder.uri} holds no {SAMPLES_NAME}, which build_shards writes: build the shards again."
        ) from None
