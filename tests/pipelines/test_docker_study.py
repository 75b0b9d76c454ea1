"""The study in the project's own images: `.ci/docker` builds them, KFP's DockerRunner runs them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.runtime.manifest import read_manifest
from components.runtime.storage import LocalFolder

docker = pytest.importorskip("docker")
IMAGES = [f"ceteris/{name}:dev" for name in ("cpu", "train", "vlm")]
PATIENCE_S = 1500

pytestmark = pytest.mark.slow  # a whole smoke study in containers


@pytest.fixture(scope="module")
def engine() -> Any:
    try:
        client = docker.from_env()
        for image in IMAGES:
            client.images.get(image)
    except docker.errors.DockerException as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Docker, or an image of ours, isn't here ({error}): run .ci/docker")
    return client


@contextlib.contextmanager
def watched(engine: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """Gives what Docker knows of each container of ours that starts meanwhile, by name."""
    import threading

    seen: dict[str, dict[str, Any]] = {}
    events = engine.events(decode=True, filters={"type": "container", "event": "start"})

    def watch() -> None:
        for event in events:
            with contextlib.suppress(docker.errors.APIError):
                found = engine.containers.get(event["id"])
                if any(image in IMAGES for image in found.image.tags):
                    seen[found.name] = found.attrs

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        events.close()
        watcher.join(10)


def test_smoke_runs_in_hardened_containers_and_trains_in_gangs_of_two(engine: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "local", "--preset=smoke", "--runner=docker", "--nodes=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with watched(engine) as seen:
        done = subprocess.run(
            [*command, f"--runs={tmp_path}"], env=env, capture_output=True, text=True, timeout=PATIENCE_S
        )
    assert done.returncode == 0, done.stderr
    out = LocalFolder(tmp_path / "smoke")
    assert read_manifest(out.folder("report")) is not None
    image = json.loads(out.read("pretrain/clip/manifest.json"))["code"].get("image", "")
    assert image.startswith("ceteris/train"), image
    steps = [name for name in seen if not name.startswith("pretrain-")]
    gangs = [name for name in seen if name.startswith("pretrain-")]
    assert (len(steps), len(gangs)) == (14, 4), sorted(seen)
    for name, about in seen.items():
        host, user = about["HostConfig"], about["Config"]["User"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and not host["Privileged"], name
        assert host["SecurityOpt"] == ["no-new-privileges"], name
        assert int(user.partition(":")[0]) > 0, name
    assert not [found.name for found in engine.containers.list(all=True) if found.name in seen]


def test_an_image_that_is_not_there_is_refused_before_anything_runs(engine: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "local", "--preset=smoke", "--runner=docker", f"--runs={tmp_path}"]
    done = subprocess.run([*command, "--image", "vlm=localhost:1/none:dev"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "The image localhost:1/none:dev is neither here nor in a registry" in done.stderr
    assert "run `make images`" in done.stderr
    assert not (tmp_path / "smoke" / "build_shards").exists()


def test_without_docker_the_sentence_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "local", "--preset=smoke", "--runner=docker", f"--runs={tmp_path}"]
    env = os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Docker does not answer" in done.stderr
