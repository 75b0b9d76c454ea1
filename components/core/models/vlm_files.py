"""Vision-language models as files: safetensors for the weights, JSON and Hugging Face's formats for the rest.

A tower of another library is written by name, with what identifies it: its weights stay where they come from.
"""

import json
from typing import Any, Protocol

import torch
from safetensors.torch import load, save

from components.core.data.conversation import TEMPLATES
from components.core.models import encoder, language_model
from components.core.models.encoder import load_encoder, save_encoder
from components.core.models.language_model import read_language_model, save_language_model
from components.core.models.projector import Projector
from components.core.models.trunk import Trunk
from components.core.models.vision_tower import OWN, VisionTower, external_tower, own_tower
from components.core.models.vlm import VisionLanguageModel

VLM, PROJECTOR, LANGUAGE_MODEL = "vlm.json", "projector.safetensors", "language_model"
COMPARED = ("weights_sha256", "image_size_px", "mean", "std", "resampling", "num_tokens", "width")


class Files(encoder.Files, language_model.Files, Protocol):
    """A place that holds bytes by name."""


def save_vlm(files: Files, vlm: VisionLanguageModel) -> list[str]:
    """Writes a vision-language model and returns the names written."""
    names = save_language_model(files, LANGUAGE_MODEL, vlm.language_model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in vlm.projector.state_dict().items()}
    files.write(PROJECTOR, save(tensors))
    if isinstance(vlm.tower.vision, Trunk):
        names += save_encoder(files, vlm.tower.vision, vlm.tower.facts["encoder"])
    about = {"template": vlm.template.name, "tower": vlm.tower.facts}
    files.write(VLM, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    return [*names, PROJECTOR, VLM]


def read_vlm(files: Files, device: torch.device) -> VisionLanguageModel:
    """Returns what `save_vlm` wrote, to be used and not trained.

    Args:
        files: The folder.
        device: Where it computes; on a GPU the language model is in bfloat16.

    Raises:
        ValueError: The tower's name stands for another model now, or the language model can't be loaded.
        Exception: What the tower's library raises for a name that it doesn't know or can't fetch.
    """
    about = json.loads(files.read(VLM))
    tower = _tower(files, about["tower"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    language_model = read_language_model(files, LANGUAGE_MODEL, dtype)
    projector = Projector(in_width=tower.width, out_width=language_model.width, seed=0)
    projector.load_state_dict(load(files.read(PROJECTOR)))
    vlm = VisionLanguageModel(tower, projector, language_model, TEMPLATES[about["template"]])
    return vlm.to(device).eval().requires_grad_(False)


def _tower(files: Files, facts: dict[str, Any]) -> VisionTower:
    """Returns the tower that the facts describe, and refuses another one of the same name."""
    if facts["name"] == OWN:
        tower = own_tower(load_encoder(files)[0], facts["encoder"])
    else:
        tower = external_tower(facts["name"])
    other = [name for name in COMPARED if tower.facts[name] != facts[name]]
    if other:
        raise ValueError(
            f"the tower {facts['name']} is not the one that this model was trained with ({other[0]} is "
            f"{tower.facts[other[0]]}, and was {facts[other[0]]}): give the same model under this name"
        )
    return tower
