"""The mined pairs as sheets of pictures, and the same pairs as JSON."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from components.analyze_embeddings import grid
from components.analyze_embeddings.encoders import Encoders
from components.core.data.shard_samples import Sample
from components.core.evaluation.pair_tiles import cosines_of_pairs
from components.core.evaluation.pairs import Direction
from components.runtime.storage import Folder

SCHEMA = 1
PAIRS_NAME = "pairs.json"


def write_pairs(
    out: Folder, encoders: Encoders, shown: Mapping[Direction, np.ndarray], samples: Mapping[int, Sample]
) -> list[str]:
    """Writes a sheet per direction and `pairs.json`; returns their names.

    Args:
        out: Where to.
        encoders: Whose pairs they are.
        shown: Rows [M, 2] of the pairs per direction.
        samples: The pictures of these rows, by id.
    """
    files: list[str] = []
    directions = []
    for number, ((alike, unlike), pairs_M2) in enumerate(shown.items()):
        cosines = {arm: cosines_of_pairs(rows_ND, pairs_M2) for arm, rows_ND in encoders.first().items()}
        entries: list[dict[str, Any]] = []
        pictures: list[tuple[Image.Image, Image.Image, str]] = []
        for index, ids in enumerate(encoders.ids_N[pairs_M2].tolist()):
            values = {arm: round(float(cosines_M[index]), 4) for arm, cosines_M in cosines.items()}
            pair = [samples[picture] for picture in ids]
            boxes = grid.boxes(index)
            described = [_describe(s, box, encoders.classes) for s, box in zip(pair, boxes, strict=True)]
            entries.append({"pictures": described, "similarity": values})
            line = f"{alike} {values[alike]:.2f}   {unlike} {values[unlike]:.2f}"
            pictures.append((pair[0].image, pair[1].image, line))
        name = _sheet_name(alike, unlike, number, files)
        out.write(name, grid.draw_grid(f"Alike to {alike}, unlike to {unlike}", pictures))
        files.append(name)
        directions.append({"alike": alike, "unlike": unlike, "file": name, "pairs": entries})
    out.write_json(PAIRS_NAME, {"schema": SCHEMA, "tile_px": grid.TILE_PX, "directions": directions})
    return [*files, PAIRS_NAME]


def _sheet_name(alike: str, unlike: str, number: int, taken: list[str]) -> str:
    """Returns a file name; an external encoder's name may hold what a file's can't."""
    alike, unlike = (re.sub(r"[^A-Za-z0-9.]+", "_", arm) for arm in (alike, unlike))
    name = f"pairs_{alike}_not_{unlike}.png"
    return name if name not in taken else f"pairs_{alike}_not_{unlike}_{number}.png"


def _describe(sample: Sample, box: grid.Box, classes: dict[str, list[str]]) -> dict[str, Any]:
    labels = {f: classes[f][label] for f, label in sample.labels.items() if f in classes and label >= 0}
    return {"id": sample.id, "caption": sample.caption, "labels": labels, "box": list(box)}
