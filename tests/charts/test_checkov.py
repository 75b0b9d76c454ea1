"""checkov finds nothing in the rendered chart but what is explained here."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import VARIATIONS, objects

VERSION = "3.3.30"
EXPLAINED = {
    "CKV_K8S_8": ("Pod",),  # a test's pod runs once and ends: nothing restarts it
    "CKV_K8S_9": ("Pod",),  # and no Service leads to it
    "CKV_K8S_15": ("CronJob", "Deployment", "Job", "Pod"),  # an image by digest is the same however often it is pulled
    "CKV_K8S_35": ("Deployment", "Pod"),  # MLflow and boto3 read addresses and keys from the environment alone
    "CKV_K8S_38": ("CronJob", "Pod"),  # the reaper and the doctor ask the API server, that is what they are for
    "CKV_K8S_40": ("CronJob", "Deployment", "Job", "Pod"),  # OpenShift chooses the user, and a high one
    "CKV_K8S_43": ("CronJob", "Deployment", "Job", "Pod"),  # a digest is a site's to give; production-values.yaml does
}
ONLY_IN = {"CKV_K8S_40": {"openshift"}, "CKV_K8S_43": set(VARIATIONS) - {"production"}}


@pytest.mark.slow  # checkov takes half a minute for all variations
def test_checkov_finds_nothing_that_is_not_explained(tmp_path: Path) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    checkov = cache / "ceteris" / "checkov" / VERSION / "bin" / "checkov"
    if not checkov.exists():
        assert os.environ.get("CI") != "true", "checkov is missing: .ci/checkov installs it"
        pytest.skip("needs checkov: run .ci/checkov")
    for variation in VARIATIONS:
        (tmp_path / f"{variation}.yaml").write_text(yaml.safe_dump_all(objects(variation)))
    words = ["--framework=kubernetes", "--compact", "--quiet", "--skip-download", "--output=json"]
    done = subprocess.run(
        [str(checkov), f"--directory={tmp_path}", *words], capture_output=True, text=True, timeout=240, check=False
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 1000 and report["summary"]["parsing_errors"] == 0
    failed = report["results"]["failed_checks"]
    for check in failed:
        variation, kind = Path(check["file_path"]).stem, check["resource"].partition(".")[0]
        named = f"{check['check_id']} {check['check_name']}: {variation} {check['resource']}"
        assert kind in EXPLAINED.get(check["check_id"], ()), named
        assert variation in ONLY_IN.get(check["check_id"], {variation}), named
    assert {check["check_id"] for check in failed} == set(EXPLAINED), "an explanation without its finding"
