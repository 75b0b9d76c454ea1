"""A trained encoder in the formats of the libraries that others use: timm, Hugging Face and open_clip.

Each folder is what the library loads from disk, and says how pictures are normalised, which the trunk does by itself.
"""

from components.core.models.encoder import Files, TextSide
from components.core.models.export_huggingface import huggingface_files
from components.core.models.export_open_clip import open_clip_files
from components.core.models.export_timm import timm_files
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk

FOLDER = "export"


def export_encoder(files: Files, trunk: Trunk, side: TextSide | None) -> list[str]:
    """Writes `export/timm/`, `export/huggingface/` and, for CLIP's text tower, `export/open_clip/`.

    open_clip has no place for an arm without text, and its own wrapper around language models reads decoders
    otherwise, so those arms get the first two.

    Args:
        files: Where to.
        trunk: The encoder.
        side: What a language arm has beside it; None for an arm without text.

    Returns:
        The names written.
    """
    formats = {"timm": timm_files(trunk), "huggingface": huggingface_files(trunk)}
    if side is not None and isinstance(side.tower, TextTower):
        formats["open_clip"] = open_clip_files(trunk, side)
    names = []
    for library, contents in formats.items():
        for name, data in contents.items():
            names.append(f"{FOLDER}/{library}/{name}")
            files.write(names[-1], data)
    return names
