"""The node pools that the chart renders are what the launcher reads, and what pipelines compile with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.launch.gang import POOL_KEYS, Pool, read_pools
from pipelines.__main__ import main
from pipelines.placement import FROM_CONFIG_MAPS, FROM_SECRETS, Site
from pipelines.presets import PRESETS
from tests.charts.rendering import CHART, VARIATIONS, objects, only


def pools_of(variation: str, *sets: str) -> dict[str, Pool]:
    return read_pools(only(variation, "ConfigMap", "-pools", sets=sets)["data"]["pools.yaml"])


@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_launcher_reads_the_pools(variation: str) -> None:
    pools = pools_of(variation)
    assert set(pools) == {"cpu", "gpu", "gang"}
    for preset in PRESETS.values():
        assert Site(pools=pools).problems(preset.hardware) == []


def test_a_pool_says_what_the_values_say() -> None:
    gang = pools_of("production")["gang"]
    given = yaml.safe_load((CHART / "ci" / "production-values.yaml").read_text())["pools"]["gang"]
    found = json.loads(json.dumps(gang.as_mapping()))
    assert {key: found[key] for key in given} == given
    assert gang.queue == "ceteris" and gang.priority_class == "ceteris-gang"
    assert pools_of("openshift")["gang"].user_id == 1000650000


def test_a_pool_has_what_the_chart_knows() -> None:
    gang = pools_of("production", "pools.gang.envFromSecrets={mine,bucket}", "pools.gang.serviceAccount=")["gang"]
    assert list(gang.env_from_secrets) == ["bucket", "mlflow-client", "hub", "mine"]
    assert list(gang.env_from_config_maps) == ["ceteris-addresses"]
    assert list(gang.image_pull_secrets) == ["registry"] and gang.service_account == "ceteris-gang"
    assert pools_of("minimal", "pools.gang.serviceAccount=mine")["gang"].service_account == "mine"


@pytest.mark.parametrize("variation", VARIATIONS)
def test_what_a_pool_names_is_in_each_run_namespace(variation: str) -> None:
    accounts = objects(variation, "ServiceAccount")
    for namespace in {a["metadata"]["namespace"] for a in accounts if a["metadata"]["name"].endswith("-gang")}:
        there = {
            (o["kind"], o["metadata"]["name"])
            for o in objects(variation)
            if o["metadata"].get("namespace") == namespace
        }
        for pool in pools_of(variation).values():
            assert ("ServiceAccount", pool.service_account) in there
            assert {("ConfigMap", name) for name in pool.env_from_config_maps} <= there


def test_the_schema_knows_the_launchers_fields() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for pool in schema["properties"]["pools"]["properties"].values():
        assert set(pool["properties"]) == set(POOL_KEYS) and pool["additionalProperties"] is False


@pytest.mark.parametrize("variation", VARIATIONS)
def test_addresses_have_the_names_that_steps_take(variation: str) -> None:
    for addresses in [o for o in objects(variation, "ConfigMap") if o["metadata"]["name"].endswith("-addresses")]:
        data: dict[str, Any] = addresses["data"]
        assert all(isinstance(value, str) and value for value in data.values())
        own = {"AWS_DEFAULT_REGION", "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"}
        assert set(data) <= set(FROM_CONFIG_MAPS) | own
        assert not set(data) & {name for name in FROM_SECRETS if "KEY" in name or "TOKEN" in name}


def test_mlflows_address_is_its_services() -> None:
    addresses = only("airgapped", "ConfigMap", "-addresses")["data"]
    service = only("airgapped", "Service", "-mlflow")
    about, (port,) = service["metadata"], service["spec"]["ports"]
    assert addresses["MLFLOW_TRACKING_URI"] == f"http://{about['name']}.{about['namespace']}.svc:{port['port']}"
    assert addresses["AWS_ENDPOINT_URL"] == "https://s3.internal:9000"
    bare = only("no-monitoring", "ConfigMap", "-addresses", sets=("mlflow.externalUri=https://mlflow.example",))
    assert bare["data"]["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
    assert "MLFLOW_TRACKING_URI" not in only("no-monitoring", "ConfigMap", "-addresses")["data"]


@pytest.mark.parametrize("kind", ["Job", "Pod"])
def test_the_charts_own_command_lines_are_the_programs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every word is understood, and the pools are taken; then nobody answers."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("pipelines.patience.FIRST_WAIT_S", 0.01)
    pools = tmp_path / "pools.yaml"
    pools.write_text(only("minimal", "ConfigMap", "-pools")["data"]["pools.yaml"])
    for thing in objects("minimal", kind):
        spec = thing["spec"]["template"]["spec"] if kind == "Job" else thing["spec"]
        (container,) = spec["containers"]
        assert container["command"][:3] == ["python", "-m", "pipelines"]
        words = [word.replace("/etc/ceteris/pools.yaml", str(pools)) for word in container["args"]]
        words = [word for word in words if not word.startswith("--out=")]
        assert main([*container["command"][3:], *words]) == 1
        said = "".join(capsys.readouterr())
        assert "did not answer" in said and "unknown" not in said, said
