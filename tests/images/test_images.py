"""The Dockerfiles: each image holds what its programs import, and every builder and cluster can take it."""

import importlib.metadata
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.images.contents import (
    ROOT,
    SETS,
    closure,
    code,
    copied,
    dockerfile,
    entry_points,
    files_under,
    is_let_in,
    stages_of,
)

BUILDKIT_ONLY = re.compile(r"<<|--link|--mount|--chmod|--parents|--security|--network", re.ASCII)


def _direct(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    nested = [line.split()[1].removesuffix(".txt") for line in lines if line.startswith("-r ")]
    return [line for line in lines if line[:1] not in ("#", "-", "")] + [x for n in nested for x in _direct(n)]


def _installed(name: str) -> set[str]:
    """Returns the names of all packages of a dependency set, as the metadata of those installed here have them."""
    found: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in _direct(name)]
    while todo:
        wanted = todo.pop()
        for extra in {"", *wanted.extras} - {extra for package, extra in found if package == wanted.name}:
            found.add((wanted.name, extra))
            try:
                needs = [Requirement(line) for line in importlib.metadata.requires(wanted.name) or []]
            except importlib.metadata.PackageNotFoundError:
                continue  # for another platform
            todo += [need for need in needs if not need.marker or need.marker.evaluate({"extra": extra})]
    return {canonicalize_name(package) for package, _ in found}


def test_every_stage_has_one_image() -> None:
    assert sorted(stage for name in SETS for stage in stages_of(name)) == sorted(
        path.parent.name for path in (ROOT / "components").glob("*/component.py")
    )
    assert stages_of("launcher") == []


@pytest.mark.parametrize("name", SETS)
def test_an_image_holds_all_that_its_programs_import(name: str) -> None:
    needed, _ = closure(entry_points(name))
    held = {path for source in code(name) for path in files_under(source)}
    assert sorted(str(p.relative_to(ROOT)) for p in needed - held) == []


@pytest.mark.parametrize("name", SETS)
def test_an_image_holds_no_file_or_package_that_its_programs_do_not_import(name: str) -> None:
    needed, _ = closure(entry_points(name))
    packages = {path.parent for path in needed if path.name != "__init__.py"}
    for source in code(name):
        if (ROOT / source).is_file():
            assert ROOT / source in needed, source
        for path in files_under(source) if (ROOT / source).is_dir() else ():
            assert path.parent in packages or (path.name == "__init__.py" and path in needed), path


@pytest.mark.parametrize("name", SETS)
def test_files_that_are_no_modules_are_named_by_the_code_beside_them(name: str) -> None:
    for path in {path for source in code(name) for path in files_under(source) if path.suffix != ".py"}:
        beside = "".join(other.read_text() for other in path.parent.glob("*.py"))
        assert f'"{path.name}"' in beside, path


@pytest.mark.parametrize("name", SETS)
def test_code_lies_in_the_image_as_in_the_tree(name: str) -> None:
    assert {source: to for source, to in code(name).items() if source != to} == {}


@pytest.mark.parametrize("name", SETS)
def test_an_images_packages_have_all_that_its_programs_import(name: str) -> None:
    _, imported = closure(entry_points(name))
    known = importlib.metadata.packages_distributions()
    installed = _installed(name)
    lacking = {m for m in imported if not {canonicalize_name(d) for d in known[m]} & installed}
    assert lacking == set()


def test_the_build_gets_exactly_what_the_dockerfiles_copy() -> None:
    wanted = {path for name in SETS for source in copied(name) for path in files_under(source)}
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in (".git", ".venv", "runs")]
    present = [p for p in ROOT.iterdir() if p.is_file()] + [p for f in folders for p in f.rglob("*") if p.is_file()]
    assert {path for path in present if is_let_in(path)} == wanted
    assert not any(is_let_in(ROOT / name) for name in (".git/config", ".venv/pyvenv.cfg", "runs/a/manifest.json"))
    assert not is_let_in(ROOT / "components/core/__pycache__/a.pyc")


@pytest.mark.parametrize("name", SETS)
def test_the_base_is_one_for_all_by_digest_and_can_be_replaced(name: str) -> None:
    lines = dockerfile(name)
    base = lines[0]
    assert re.fullmatch(r"ARG BASE_IMAGE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert base == dockerfile("cpu")[0]
    assert [line.split()[1] for line in lines if line.startswith("FROM ")] == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


@pytest.mark.parametrize("name", SETS)
def test_a_container_runs_as_a_number_that_is_not_root(name: str) -> None:
    users = [line for line in dockerfile(name) if line.startswith("USER ")]
    assert users == [dockerfile(name)[-1]] == ["USER 1000:0"]


@pytest.mark.parametrize("name", SETS)
def test_the_classic_builder_takes_the_file_and_nothing_stands_between_the_command_and_python(name: str) -> None:
    text = (ROOT / "images" / name / "Dockerfile").read_text()
    assert not text.startswith("# syntax")
    for line in dockerfile(name):
        assert not BUILDKIT_ONLY.search(line), line
        assert line.split()[0] in ("ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "LABEL", "USER"), line


@pytest.mark.parametrize("name", SETS)
def test_all_caches_go_to_tmp_and_the_code_knows_its_commit(name: str) -> None:
    words = [word for line in dockerfile(name) if line.startswith("ENV ") for word in line.split()[1:]]
    variables = dict(word.split("=", 1) for word in words)
    caches = {key: value for key, value in variables.items() if re.search(r"HOME|CACHE_|DIR$|^TMP", key)}
    caches.pop("PIP_NO_CACHE_DIR")
    assert caches and all(value == "/tmp" or value.startswith("/tmp/") for value in caches.values())
    assert (variables["CETERIS_COMMIT"], variables["CETERIS_IMAGE"]) == ("$REVISION", "$IMAGE")


@pytest.mark.parametrize(("smaller", "larger"), [("cpu", "train"), ("train", "vlm")])
def test_the_larger_image_begins_with_the_smaller_ones_layers_of_packages(smaller: str, larger: str) -> None:
    layers = []
    for name in (smaller, larger):
        lines = dockerfile(name)
        start = max(place for place, line in enumerate(lines) if line.startswith("FROM "))
        layers.append(lines[start : lines.index("COPY --from=code /app /app")])
    assert layers[1][: len(layers[0])] == layers[0]
    assert len(layers[1]) > len(layers[0]) > 4


@pytest.mark.parametrize("name", SETS)
def test_hadolint_finds_nothing(name: str) -> None:
    program = Path(sys.executable).parent / "hadolint"
    file = ROOT / "images" / name / "Dockerfile"
    found = subprocess.run([program, file], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", SETS)
def test_what_hadolint_is_told_to_ignore_has_a_reason(name: str) -> None:
    lines = (ROOT / "images" / name / "Dockerfile").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if "hadolint ignore" in line:
            assert before.startswith("# ") and "hadolint" not in before
