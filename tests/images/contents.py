"""What an image's Dockerfile copies, and what the programs in it import."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.test_tree import STAGES

ROOT = Path(__file__).parents[2]
SETS = ("cpu", "train", "vlm", "launcher")
OURS = ("components", "pipelines")


def dockerfile(name: str) -> list[str]:
    """Returns the instructions of an image, one string each, without comments and continuation marks."""
    lines = [line for line in (ROOT / "images" / name / "Dockerfile").read_text().splitlines() if line[:1] != "#"]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def dependencies(stage: str) -> str:
    """Returns the dependency set that a stage's component names."""
    tree = ast.parse((ROOT / "components" / stage / "component.py").read_text())
    words = [word for call in ast.walk(tree) if isinstance(call, ast.Call) for word in call.keywords]
    (found,) = [word.value for word in words if word.arg == "dependencies"]
    assert isinstance(found, ast.Constant)
    return str(found.value)


def stages_of(name: str) -> list[str]:
    """Returns the stages that run in an image."""
    return [stage for stage in STAGES if dependencies(stage) == name]


def entry_points(name: str) -> list[str]:
    """Returns the modules that an image's programs start from, and those that they import by a computed name."""
    if name == "launcher":
        programs = ["pipelines.__main__", "components.launch.__main__", "components.launch.reaper"]
        return programs + [f"components.{stage}.params" for stage in STAGES]
    return [f"components.{stage}.{module}" for stage in stages_of(name) for module in ("__main__", "stage")]


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.exists()), None)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closure(entries: Iterable[str]) -> tuple[set[Path], set[str]]:
    """Returns our files that `entries` import, in functions too, and the top-level names of all else but Python's."""
    files: set[Path] = set()
    others: set[str] = set()
    todo = list(entries)
    while todo:
        module = todo.pop()
        top, path = module.partition(".")[0], _file(module)
        if top not in OURS:
            others.add(top)
        elif path is not None and path not in files:
            files.add(path)
            todo += [*_imports(path), *(module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1))]
    return files, others - set(sys.stdlib_module_names)


def copied(name: str) -> dict[str, str]:
    """Returns where an image's Dockerfile copies each file and folder of ours to, relative to /app."""
    lines = [line.split()[1:] for line in dockerfile(name) if line.startswith("COPY ") and "--from" not in line]
    pairs = [(source, words[-1]) for words in lines for source in words[:-1]]
    return {s: f"{to}{Path(s).name}" if to.endswith("/") else to for s, to in pairs}


def code(name: str) -> dict[str, str]:
    """Returns `copied` without the lists of packages."""
    return {source: to for source, to in copied(name).items() if not source.startswith("requirements/")}


def is_let_in(path: Path) -> bool:
    """Returns whether .dockerignore lets a file into the build: the last line that matches it or a folder of it."""
    is_in = True
    relative = path.relative_to(ROOT)
    names = [str(part) for part in (relative, *relative.parents) if str(part) != "."]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line[:1] == "#" or not line:
            continue
        expression = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, name) for name in names):
            is_in = line[0] == "!"
    return is_in


def files_under(source: str) -> set[Path]:
    """Returns the files that copying a file or folder of ours brings into an image."""
    path = ROOT / source
    found = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {p for p in found if is_let_in(p)}
