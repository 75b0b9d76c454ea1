"""Trained encoders as files: safetensors for the weights, JSON for what rebuilds the module around them."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from components.core.data.tokenizer import Tokenizer, tokenizer_from_json
from components.core.models.language_tower import LanguageTower, language_tower_from_facts
from components.core.models.text_tower import TextTower
from components.core.models.trunk import Trunk

ENCODER_FILES = ("encoder.safetensors", "encoder.json")
TEXT_FILES = ("text.safetensors", "text.json")
PROJECTION, LOGIT_SCALE, LOGIT_BIAS, TOWER = "visual_projection", "logit_scale", "logit_bias", "tower."
CLIP, LANGUAGE = "clip", "language"  # which tower
MAX_PART_BYTES = 2**30


class Files(Protocol):
    """A place that holds bytes by name."""

    uri: str

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...


@dataclasses.dataclass(frozen=True)
class TextSide:
    """What a language arm has beside its trunk.

    Attributes:
        tower: Token ids to embeddings.
        tokenizer: Made for that tower.
        projection_DE: From the trunk's CLS token to the joint space.
        logit_scale: The trained temperature, as the logarithm of the scale.
        logit_bias: The sigmoid loss's bias; None where the arm's loss has none.
    """

    tower: TextTower | LanguageTower
    tokenizer: Tokenizer
    projection_DE: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None = None


def save_encoder(files: Files, trunk: Trunk, facts: dict[str, Any]) -> list[str]:
    """Writes a trunk with `facts` about it (arm, seed), and returns the names written."""
    files.write(ENCODER_FILES[0], save(_plain(trunk.state_dict())))
    files.write(ENCODER_FILES[1], _json(facts | {"architecture": architecture(trunk)}))
    return list(ENCODER_FILES)


def load_encoder(files: Files) -> tuple[Trunk, dict[str, Any]]:
    """Returns the trunk in evaluation mode and the facts saved with it."""
    facts = json.loads(files.read(ENCODER_FILES[1]))
    trunk = Trunk(**facts["architecture"], seed=0)
    trunk.load_state_dict(load(files.read(ENCODER_FILES[0])))
    return trunk.eval().requires_grad_(False), facts


def architecture(trunk: Trunk) -> dict[str, int]:
    """Returns the numbers that decide a trunk's shape."""
    names = ("image_size_px", "patch_size_px", "width", "depth", "num_heads")
    return {name: getattr(trunk, name) for name in names}


def save_text(files: Files, side: TextSide) -> list[str]:
    """Writes the text side of a language arm, with all its weights, and returns the names written."""
    tensors = {TOWER + name: tensor for name, tensor in side.tower.state_dict().items()}
    tensors |= {PROJECTION: side.projection_DE, LOGIT_SCALE: side.logit_scale}
    if side.logit_bias is not None:
        tensors[LOGIT_BIAS] = side.logit_bias
    names = []
    for number, part in enumerate(_parts(tensors)):
        names.append(TEXT_FILES[0] if number == 0 else f"text-{number}.safetensors")
        files.write(names[-1], save(_plain(part)))
    facts = {"tower": _tower_facts(side.tower), "tokenizer": side.tokenizer.to_json(), "weights": names}
    files.write(TEXT_FILES[1], _json(facts))
    return [*names, TEXT_FILES[1]]


def load_text(files: Files) -> TextSide:
    """Returns the text side in evaluation mode."""
    facts = json.loads(files.read(TEXT_FILES[1]))
    tensors: dict[str, Tensor] = {}
    for name in facts["weights"]:
        tensors |= load(files.read(name))
    tower = _tower(**facts["tower"])
    tower.load_state_dict({n.removeprefix(TOWER): t for n, t in tensors.items() if n.startswith(TOWER)})
    return TextSide(
        tower=tower.eval().requires_grad_(False),
        tokenizer=tokenizer_from_json(facts["tokenizer"]),
        projection_DE=tensors[PROJECTION],
        logit_scale=tensors[LOGIT_SCALE],
        logit_bias=tensors.get(LOGIT_BIAS),
    )


def _tower_facts(tower: TextTower | LanguageTower) -> dict[str, Any]:
    if isinstance(tower, LanguageTower):
        return {"kind": LANGUAGE, "shape": tower.facts()}
    names = ("context_length", "width", "depth", "embedding_dim")
    shape = {name: getattr(tower, name) for name in names}
    return {
        "kind": CLIP,
        "shape": shape | {"vocab_size": tower.transformer.vocab_size, "num_heads": tower.transformer.heads},
    }


def _tower(kind: str, shape: dict[str, Any]) -> TextTower | LanguageTower:
    return language_tower_from_facts(shape) if kind == LANGUAGE else TextTower(**shape, seed=0)


def _parts(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors in parts, so that a language model of billions of weights isn't one blob in memory."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if part and size + tensor.nbytes > MAX_PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor
        size += tensor.nbytes
    yield part


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def device() -> torch.device:
    """Returns where this process computes: its GPU (the first, unless `distributed.start` chose) or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Returns what is computed on, for a record of the cost: `NVIDIA H100 80GB HBM3`, or `CPU, 2 threads`."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
