"""What a study takes before anything runs: hardware, GPU-hours, cost and sizes, by arithmetic."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from components.core.training.flops import PEAK_FLOPS, vit_forward_flops
from components.pretrain.cost import training_flops
from pipelines.design import PURPOSES, Design
from pipelines.knobs import Knobs, params_of
from pipelines.placement import Hardware

H100_TFLOPS = PEAK_FLOPS["H100"] / 1e12
MFU = 0.40
JPEG_BYTES_PER_PIXEL = 0.25  # quality 90
ASPECT = 4 / 3
ADAM_BYTES_PER_WEIGHT = 12  # the weight and two moments in float32


def plan_table(
    design: Design,
    knobs: Knobs,
    hardware: Mapping[str, Hardware],
    *,
    mfu: float,
    gpu_tflops: float,
    gpu_hour_price: float,
) -> str:
    """Returns a row per task of the study, and the sums.

    Args:
        design: What is compared.
        knobs: The study's numbers.
        hardware: What each stage asks of a cluster.
        mfu: Share of the GPU's peak that is reached.
        gpu_tflops: The GPU's peak.
        gpu_hour_price: Price of one GPU-hour; 0 leaves the cost out.
    """
    params = {task: params_of(knobs, task, design, "synthetic", 0) for task in design.tasks}
    rows, total_h = [["task", "hardware", "work", "GPU-hours"]], 0.0
    for task, values in params.items():
        work, flops = _work(task, values, params)
        placed = hardware[task.partition("/")[0]]
        hours = flops / (mfu * gpu_tflops * 1e12 * 3600) if placed.num_gpus else 0.0
        total_h += hours
        rows.append([task, _hardware_words(placed), work, f"{hours:.2f}" if hours else "-"])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_sums(params, total_h, mfu, gpu_tflops, gpu_hour_price)])


def _sums(params: Mapping[str, Any], hours: float, mfu: float, gpu_tflops: float, price: float) -> Iterator[str]:
    if hours:
        cost = f", {hours * price:,.0f} at {price:g} an hour" if price else ""
        yield f"{hours:.1f} GPU-hours{cost}, at {100 * mfu:g} % of {gpu_tflops:g} TFLOP/s."
    sets = [params[f"build_shards/{purpose}"] for purpose in PURPOSES]
    pictures = sum(p.num_samples * p.image_size_px**2 for p in sets)
    yield f"Shards: about {_bytes(pictures * ASPECT * JPEG_BYTES_PER_PIXEL)} as JPEG."
    encoder = next(p for t, p in params.items() if t.startswith("pretrain"))
    weights = 12 * encoder.depth * encoder.width**2
    yield f"Encoder: about {weights / 1e6:.1f} million weights, {_bytes(weights * ADAM_BYTES_PER_WEIGHT)} a checkpoint."


def _work(task: str, values: Any, params: Mapping[str, Any]) -> tuple[str, float]:
    """Returns what a task does, and the FLOP of it that a GPU would do (0 where that is little)."""
    stage, _, arm = task.partition("/")
    if stage == "build_shards":
        if arm not in PURPOSES:
            return "a published set", 0.0
        return f"{values.num_samples:,} pictures of {values.image_size_px} px", 0.0
    if stage == "pretrain":
        flops = training_flops(values)
        return f"{values.num_samples_seen:,} samples x {flops / 1e9:,.4g} GFLOP", values.num_samples_seen * flops
    if stage == "extract_features":
        if f"pretrain/{arm}" not in params:
            return "a published set", 0.0
        encoder, pictures = params[f"pretrain/{arm}"], params["build_shards/probe"].num_samples
        trunk = {name: getattr(encoder, name) for name in ("image_size_px", "patch_size_px", "width", "depth")}
        flops = vit_forward_flops(**trunk, is_cls_only=False)
        return f"{pictures:,} pictures x {flops / 1e9:,.4g} GFLOP", pictures * flops
    if stage == "train_vlm":
        return _language_work(values)
    return "", 0.0


def _language_work(values: Any) -> tuple[str, float]:
    """Returns the two stages of a vision-language model; 6 FLOP per weight and token, 4 where weights stay frozen."""
    size = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z])", values.language_model, re.IGNORECASE)
    aligned = values.align_steps * values.align_batch_size * values.max_length
    tuned = values.tune_steps * values.tune_batch_size * values.max_length
    if size is None:
        return f"at most {(aligned + tuned) / 1e6:,.4g} million tokens, a model of unknown size", 0.0
    weights = float(size[1]) * {"b": 1e9, "m": 1e6}[size[2].lower()]
    work = f"at most {(aligned + tuned) / 1e6:,.4g} million tokens x {weights / 1e9:g} billion weights"
    return work, weights * (4 * aligned + 6 * tuned)


def _hardware_words(hardware: Hardware) -> str:
    node = f"{hardware.num_cpus} CPU {hardware.memory_gib} GiB"
    node += f" {hardware.num_gpus} GPU" if hardware.num_gpus else ""
    return f"{hardware.num_nodes} x ({node})" if hardware.num_nodes > 1 else node


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
