"""The mined pairs as single pictures, cut from the sheets of analyze_embeddings and carried inside the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from components.report.content import Gallery, PicturePair
from components.report.study import Study
from components.report.wording import arm_name, count, joined, number

WEBP_QUALITY = 88


def galleries(study: Study, arms: Sequence[str]) -> list[Gallery]:
    """Returns a gallery for each direction between the first arm and the others."""
    facts = {(d["alike"], d["unlike"]): d for d in study.analysis["directions"]}
    found = []
    for direction in study.pairs["directions"]:
        alike, unlike = direction["alike"], direction["unlike"]
        if study.first.name not in (alike, unlike) or not {alike, unlike} <= set(arms):
            continue
        sheet = Image.open(io.BytesIO(study.sheets[direction["file"]]))
        of = facts[alike, unlike]
        limits = f"{arm_name(alike)} above {number(of['above'], 2)}, {arm_name(unlike)} below {number(of['below'], 2)}"
        total = of["num_pairs"]
        shown = f"{len(direction['pairs'])} of {count(total)}" if total != len(direction["pairs"]) else count(total)
        found_pairs = f"{shown} {'pair' if total == 1 else 'pairs'}" if total else "No pair lies within both thresholds"
        found.append(
            Gallery(
                heading=f"Alike to {arm_name(alike)}, not to {arm_name(unlike)}",
                caption=f"{found_pairs} ({limits}).",
                pairs=[_pair(sheet, pair, (alike, unlike)) for pair in direction["pairs"]],
            )
        )
    return found


def _pair(sheet: Image.Image, pair: dict[str, Any], arms: tuple[str, str]) -> PicturePair:
    first, second = pair["pictures"]
    shared = [f for f, value in first["labels"].items() if second["labels"].get(f) == value]
    known = first["labels"].keys() & second["labels"].keys()
    return PicturePair(
        sources=(_data_uri(sheet, first["box"]), _data_uri(sheet, second["box"])),
        alts=(_alt(first), _alt(second)),
        similarities=[(arm, number(pair["similarity"][arm], 2)) for arm in arms],
        note=f"same {joined(shared)}" if shared else "nothing labelled in common" if known else "",
    )


def _alt(picture: dict[str, Any]) -> str:
    labels = ", ".join(f"{factor} {value}" for factor, value in picture["labels"].items())
    return "; ".join(part for part in (picture["caption"], labels) if part) or f"picture {picture['id']}"


def _data_uri(sheet: Image.Image, box: Sequence[int]) -> str:
    buffer = io.BytesIO()
    left, top, right, bottom = box
    sheet.crop((left, top, right, bottom)).save(buffer, format="WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
