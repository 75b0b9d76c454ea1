"""The compiled study: one YAML file that KFP's cluster, its client and its local engine read."""

from pathlib import Path

from kfp import compiler

from components.runtime.errors import BadInput
from pipelines.design import Design
from pipelines.encoder_study import encoder_study
from pipelines.knobs import Knobs
from pipelines.placement import Site
from pipelines.presets import Preset


def write_package(path: Path, design: Design, recipe: Preset, knobs: Knobs, site: Site) -> None:
    """Compiles the study into a KFP package.

    Args:
        path: The file to write.
        design: What is compared.
        recipe: The preset, whose hardware the package asks for.
        knobs: Its numbers, with those of the command line.
        site: Where it will run: images, node pools.

    Raises:
        BadInput: The file can't be written, or a stage asks for more than its node pool gives.
    """
    if problems := site.problems(recipe.hardware):
        raise BadInput(*problems)
    study = encoder_study(design, knobs, recipe.hardware, site)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(study, str(path))
    except OSError as error:
        raise BadInput(f"--out={path} can't be written ({error.strerror}): choose another file.") from error
