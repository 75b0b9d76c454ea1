"""Small data in LLaVA's published layout, and a small language model in Hugging Face's format."""

import copy
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from components.core.data.questions import LETTERS
from components.core.models.torchvision_cpu import allow_torchvision_import
from tests.core.data.made_tokenizers import made_tokenizer

NUM_CAPTIONS, NUM_CONVERSATIONS = 12, 16


def jpeg(number: int, size: tuple[int, int] = (20, 14)) -> bytes:
    """Returns a picture of noise."""
    pixels = numpy.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_captions(folder: Path) -> Path:
    """Writes captions as LLaVA-Pretrain has them, pictures in folders beside the file."""
    records = []
    for number in range(NUM_CAPTIONS):
        name = f"{number % 3:05d}/{number:09d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
        said = [
            {"from": "human", "value": "Describe the image concisely.\n<image>"},
            {"from": "gpt", "value": f"a red cat, number {number}"},
        ]
        records.append({"id": f"{number:09d}", "image": name, "conversations": said})
    path = folder / "blip_laion_cc_sbu_558k.json"
    path.write_text(json.dumps(records))
    return path


def write_conversations(folder: Path, **changed: Any) -> Path:
    """Writes conversations as the 665K mix has them, pictures in tars; some are text only, one has two pictures.

    Args:
        folder: Where.
        changed: Members of the last record that are other than usual.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    with tarfile.open(folder / "coco.tar", "w") as tar:
        for number in range(NUM_CONVERSATIONS):
            name = f"coco/train2017/{number:012d}.jpg"
            data = jpeg(100 + number)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            image: dict[str, Any] = {"image": name}
            mark = "<image>\n"
            if number % 4 == 3:
                image, mark = {}, ""
            elif number == 1:
                image, mark = {"image": [name, "coco/train2017/000000000000.jpg"]}, "<image>\n<image>\n"
            said = [
                {"from": "human", "value": f"{mark}What is in the picture?"},
                {"from": "gpt", "value": f"A dog on {number} blue stones."},
                {"from": "human", "value": "How many colours are there?"},
                {"from": "gpt", "value": "Two."},
            ]
            records.append({"id": str(number), **image, "conversations": said})
    records[-1] |= changed
    path = folder / "llava_v1_5_mix665k.json"
    path.write_text(json.dumps(records))
    return path


def write_language_model(folder: Path, kind: str = "llama") -> Path:
    """Writes a small Llama with a tokenizer that tells the letters apart."""
    allow_torchvision_import()
    from tokenizers import AddedToken
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = copy.deepcopy(made_tokenizer(kind))
    tokenizer.add_tokens([AddedToken(f" {letter}", normalized=False) for letter in LETTERS])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
