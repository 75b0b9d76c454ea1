"""Puts a compiled study into Kubeflow Pipelines, once: the same study, images and node pools are the same version."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.design import Design
from pipelines.knobs import Knobs
from pipelines.package import write_package
from pipelines.placement import Site
from pipelines.presets import Preset
from pipelines.service import Service

DIGITS = 12  # of the package's sha256


def upload(
    service: Service, *, name: str, design: Design, recipe: Preset, knobs: Knobs, site: Site
) -> tuple[str, str, bool]:
    """Returns the version's name, its page, and whether it is new.

    Args:
        service: Kubeflow Pipelines.
        name: Name of the pipeline.
        design: What is compared.
        recipe: The preset.
        knobs: Its numbers, with those of the command line.
        site: Images and node pools.

    Raises:
        BadInput: The package can't be made.
        StageFailure: The server refuses, or doesn't answer.
    """
    with TemporaryDirectory() as folder:
        package = Path(folder) / "study.yaml"
        write_package(package, design, recipe, knobs, site)
        version = f"{name}-{hashlib.sha256(package.read_bytes()).hexdigest()[:DIGITS]}"
        page, is_new = service.upload(package, pipeline=name, version=version, about=recipe.about)
    return version, page, is_new
