"""A compiled study is put into Kubeflow Pipelines once, over a real connection to a KFP stand-in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from pipelines import patience
from pipelines.__main__ import main
from tests.pipelines.kfp_server import API, Fault, KfpServer, kfp_server

DIGEST = "sha256:" + 64 * "0"
IMAGES = [f"--image={name}=registry/{name}@{DIGEST}" for name in ("cpu", "train", "vlm", "launcher")]
POOLS = "pools: {gpu: {cpus: 12, memoryGib: 96, gpus: 1, nodeSelector: {node.example/pool: l40s}}}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KfpServer]:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with kfp_server() as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.url)
        yield running


def uploaded(*argv: str) -> int:
    return main(["upload", "--preset", "small", *IMAGES, *argv])


def names(server: KfpServer) -> list[str]:
    return [version["name"] for version in server.versions.values()]


def test_a_study_is_uploaded_once(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert uploaded() == EXIT_DONE
    (pipeline,), (version,) = server.pipelines.values(), server.versions.values()
    assert pipeline["display_name"] == "ceteris-small" and pipeline["description"]
    assert version["name"].startswith("ceteris-small-") and version["pipeline_id"] == pipeline["pipeline_id"]
    first = capsys.readouterr().out
    assert f"Uploaded {version['name']}." in first
    assert f"/#/pipelines/details/{pipeline['pipeline_id']}/version/{version['pipeline_version_id']}" in first
    assert uploaded() == EXIT_DONE
    assert len(server.pipelines) == 1 and names(server) == [version["name"]]
    assert f"It is there already: {version['name']}." in capsys.readouterr().out


def test_other_images_and_pools_are_another_version(server: KfpServer, tmp_path: Path) -> None:
    pools = tmp_path / "pools.yaml"
    pools.write_text(POOLS)
    assert uploaded() == EXIT_DONE
    assert uploaded(f"--image=train=registry/train@{DIGEST[:-1]}1") == EXIT_DONE
    assert uploaded(f"--pools={pools}") == EXIT_DONE
    assert len(server.pipelines) == 1 and len(set(names(server))) == 3


def test_presets_are_pipelines_of_their_own_and_a_name_is_anothers_choice(server: KfpServer) -> None:
    assert uploaded() == uploaded("--preset=paper") == uploaded("--name=mine") == EXIT_DONE
    assert sorted(p["name"] for p in server.pipelines.values()) == ["ceteris-paper", "ceteris-small", "mine"]


def test_a_run_can_be_started_with_what_was_uploaded(server: KfpServer, tmp_path: Path) -> None:
    pools = tmp_path / "pools.yaml"
    pools.write_text(POOLS)
    assert uploaded(f"--pools={pools}") == EXIT_DONE
    (version,) = server.versions.values()
    tasks = version["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert any(name.startswith("pretrain") for name in tasks)
    assert "kubernetes" in version["pipeline_spec"]["platform_spec"]["platforms"]


def test_a_profile_has_pipelines_of_its_own(server: KfpServer) -> None:
    assert uploaded("--namespace=team") == EXIT_DONE
    (pipeline,) = server.pipelines.values()
    assert pipeline["namespace"] == "team"


def test_an_upload_that_fails_half_way_is_taken_up_again(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults.append(Fault("POST", f"{API}/pipelines/upload_version$", 503, times=1))
    assert uploaded() == EXIT_FAILED
    assert "refused to take the version" in capsys.readouterr().err and not server.versions
    assert uploaded() == EXIT_DONE
    assert len(server.pipelines) == len(server.versions) == 1


def test_a_name_that_is_none_is_refused(server: KfpServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert uploaded("--name=My study", "--set", "pretrain.num_heads=5") == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "--name=My study is no pipeline's name" in said and "num_heads" in said
    assert not server.calls
