"""The images as a cluster runs them: any user, read-only root, no capabilities, no network."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.images.contents import ROOT, SETS, copied, files_under, stages_of

pytestmark = pytest.mark.slow  # starts tens of containers; needs Docker and the images, which .ci/docker builds

REGISTRY = "ceteris"
HARDENED = (
    *("--rm", "--user", "12345:0", "--read-only", "--tmpfs", "/tmp:exec", "--network", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
RUN_BY = [(name, f"components.{stage}") for name in SETS for stage in stages_of(name)]
LAUNCHER = [("launcher", module) for module in ("pipelines", "components.launch", "components.launch.reaper")]
SCENES = ("--purpose=pretrain", "--samples_per_shard=16", "--min_shards=1", "--num_workers=1")


def _docker(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, input=stdin, timeout=240)


def _inside(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return _docker("run", *HARDENED, f"{REGISTRY}/{name}:dev", *command)


def _said(container: str) -> str:
    logs = _docker("logs", container)
    return logs.stdout + logs.stderr


def _inspected(name: str) -> dict:
    return json.loads(_docker("image", "inspect", f"{REGISTRY}/{name}:dev").stdout)[0]


def _commit() -> str:
    words = ["git", "describe", "--always", "--exclude", "*", "--abbrev=40", "--dirty"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _images() -> None:
    """Skips where there are no images of this commit; fails in CI, which builds them before."""
    problem = ""
    if not shutil.which("docker") or _docker("info").returncode:
        problem = "no Docker daemon answers"
    for name in () if problem else SETS:
        found = _docker("image", "inspect", "--format", "{{json .Config.Labels}}", f"{REGISTRY}/{name}:dev")
        labels = json.loads(found.stdout or "{}") if not found.returncode else {}
        if labels.get("org.opencontainers.image.revision") != _commit():
            problem = f"{REGISTRY}/{name}:dev is not of {_commit()}"
    if problem and os.environ.get("CI"):
        pytest.fail(f"{problem}: .ci/docker builds the images")
    if problem:
        pytest.skip(f"{problem}: run `make images`, or .ci/docker where no registry is reachable")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Returns a folder that any user may write to, as a volume with an fsGroup is."""
    tmp_path.chmod(0o777)
    for folder in [*tmp_path.parents][:2]:
        folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


@pytest.mark.parametrize(("name", "module"), RUN_BY + LAUNCHER)
def test_a_program_explains_itself_in_its_image(name: str, module: str) -> None:
    done = _inside(name, "python", "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {module}" in done.stdout


@pytest.mark.parametrize(("name", "module"), RUN_BY)
def test_the_work_of_a_stage_is_imported_in_its_image(name: str, module: str) -> None:
    done = _inside(name, "python", "-c", f"import {module}.stage")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SETS)
def test_an_image_can_write_to_tmp_only_and_holds_nothing_writable(name: str) -> None:
    find = "find / -xdev -writable -not -type l -not -path '/tmp*' -not -path '/proc/*' -not -path '/dev/*'"
    found = _docker("run", "--rm", "--user", "12345:0", "--network", "none", f"{REGISTRY}/{name}:dev", "sh", "-c", find)
    allowed = {"/var/tmp", "/run/lock", "/var/lock"}
    assert set(found.stdout.split()) <= allowed
    assert _inspected(name)["Config"]["User"] == "1000:0"


def test_names_of_imagenet_are_known_where_shards_are_built() -> None:
    ask = "from components.core.data import class_names; print(len(class_names.imagenet()))"
    assert _inside("cpu", "python", "-c", ask).stdout == "1000\n"


def test_shards_are_built_into_a_volume_by_any_user_and_name_commit_and_image(volume: Path) -> None:
    stage = ("python", "-m", "components.build_shards", *SCENES, "--num_samples=64", "--out_uri=/data/shards")
    done = _docker("run", *HARDENED, "--volume", f"{volume}:/data", f"{REGISTRY}/cpu:dev", *stage)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((volume / "shards" / "manifest.json").read_text())
    assert manifest["code"] == {"commit": _commit(), "image": f"{REGISTRY}/cpu:dev"}
    assert [name for name in manifest["files"] if not (volume / "shards" / name).is_file()] == []
    assert any(name.endswith(".tar") for name in manifest["files"])


def test_a_stage_that_is_asked_to_stop_ends_as_preempted(volume: Path) -> None:
    name = f"ceteris-stop-{os.getpid()}"
    stage = ("python", "-m", "components.build_shards", *SCENES, "--num_samples=1000000", "--out_uri=/data/shards")
    options = [word for word in HARDENED if word != "--rm"]
    started = _docker(
        "run", "--detach", "--name", name, *options, "-v", f"{volume}:/data", f"{REGISTRY}/cpu:dev", *stage
    )
    try:
        assert started.returncode == 0, started.stderr
        limit = time.monotonic() + 120
        while '"started"' not in (logs := _said(name)) and time.monotonic() < limit:
            time.sleep(0.2)
        assert '"started"' in logs
        assert _docker("stop", "--time", "60", name).returncode == 0
        assert _docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "3"
        assert '"preempted"' in _said(name)
    finally:
        _docker("rm", "--force", "--volumes", name)


@pytest.mark.parametrize(("smaller", "larger"), [("cpu", "train"), ("train", "vlm")])
def test_a_node_pulls_the_packages_of_the_smaller_image_once(smaller: str, larger: str) -> None:
    packages = _inspected(smaller)["RootFS"]["Layers"][:-1]  # the last one is the code
    assert _inspected(larger)["RootFS"]["Layers"][: len(packages)] == packages


@pytest.mark.parametrize("name", ["train", "vlm"])
def test_torch_compiles_in_the_image(name: str) -> None:
    ask = "import torch; print(torch.compile(lambda x: (2 * x).relu().sum())(torch.ones(300)).item())"
    done = _inside(name, "python", "-c", ask)
    assert done.stdout == "600.0\n", done.stderr


def test_docker_lets_in_what_we_think_it_does(tmp_path: Path) -> None:
    everything = f"FROM {REGISTRY}/cpu:dev\nCOPY . /context\n"
    tag = f"ceteris-context:{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(everything)
    built = _docker("build", "--quiet", "--file", str(tmp_path / "Dockerfile"), "--tag", tag, str(ROOT))
    try:
        assert built.returncode == 0, built.stderr
        listed = _docker("run", "--rm", tag, "sh", "-c", "cd /context && find . -type f").stdout
        wanted = {path for name in SETS for source in copied(name) for path in files_under(source)}
        assert {re.sub(r"^\./", "", line) for line in listed.split()} == {str(p.relative_to(ROOT)) for p in wanted}
    finally:
        _docker("rmi", "--force", tag)
