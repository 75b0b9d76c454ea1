"""The tree keeps its promises: every stage is the same folder, and generated text is up to date."""

import ast
from pathlib import Path

import pytest
import yaml

from components.runtime.readme import params_of, stages, with_table

ROOT = Path(__file__).parents[1]
STAGES = [
    "analyze_embeddings",
    "benchmark_vlm",
    "build_shards",
    "evaluate",
    "extract_features",
    "preflight",
    "pretrain",
    "report",
    "train_vlm",
]
FILES = {"README.md", "metadata.yaml", "params.py", "component.py", "__main__.py", "__init__.py", "stage.py"}
SOURCES = [p for folder in ("components", "pipelines") for p in sorted((ROOT / folder).rglob("*.py"))]


def test_there_are_the_studys_eight_stages_and_preflight() -> None:
    assert stages() == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_same_small_folder(stage: str) -> None:
    folder = ROOT / "components" / stage
    assert {path.name for path in folder.iterdir() if path.name != "__pycache__"} >= FILES
    assert len((folder / "component.py").read_text().splitlines()) <= 18
    assert yaml.safe_load((folder / "metadata.yaml").read_text())["name"] == stage


@pytest.mark.parametrize("stage", STAGES)
def test_the_readmes_parameters_are_the_programs(stage: str) -> None:
    readme = (ROOT / "components" / stage / "README.md").read_text()
    assert readme == with_table(readme, params_of(stage)), "run `make docs`"


def test_the_study_fits_on_a_page() -> None:
    assert len((ROOT / "pipelines" / "encoder_study.py").read_text().splitlines()) <= 100


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "common", "misc")
    if path.name == "__init__.py":
        assert path.read_text() == ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_is_read(path: Path) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "pickle.load", "pickle.loads"}


def test_every_requirement_has_its_version_in_the_lock() -> None:
    lock = (ROOT / "requirements" / "lock.txt").read_text().lower().replace("_", "-")
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            name = line.partition("[")[0].strip().lower().replace("_", "-")
            if (
                path.name not in ("lock.txt", "peers.txt", "peers-torch.txt")
                and name
                and not name.startswith(("-", "#"))
            ):
                assert f"\n{name}==" in lock, f"{path.name}: {name}"
