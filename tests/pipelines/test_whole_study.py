"""The whole study at its smallest, as a person runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.scores import scores_table

SCORE = {"accuracy": 0.5, "low": 0.4, "high": 0.61}


def run_smoke(runs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "local", "--preset", "smoke", "--runs", str(runs)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_smallest_study_reaches_its_report_and_is_not_made_twice(tmp_path: Path) -> None:
    first = run_smoke(tmp_path)
    assert first.returncode == 0, first.stderr
    report = tmp_path / "smoke" / "report"
    results = (report / "results.json").read_bytes()
    assert json.loads(results)["arms"].keys() == {"clip", "dino"}
    assert str(report / "report.html") in first.stdout and "linear probe" in first.stdout
    start = time.monotonic()
    second = run_smoke(tmp_path)
    assert second.returncode == 0 and second.stderr.count("already done") == 16
    assert (report / "results.json").read_bytes() == results
    assert time.monotonic() - start < 30


def test_scores_of_all_arms_stand_side_by_side_with_their_intervals() -> None:
    arms = {
        "clip": {"probe": {"object": SCORE}, "vmc": {"ocr": SCORE}},
        "dino": {"probe": {"object": SCORE | {"accuracy": None}}, "vmc": {}},
    }
    lines = scores_table({"confidence": 0.95, "arms": arms}).splitlines()
    assert lines[0] == "accuracy in %, 95 % intervals"
    assert [line.split() for line in lines[1:]] == [
        ["linear", "probe", "clip", "dino"],
        ["object", "50.0", "(40.0", "to", "61.0)", "-"],
        ["multiple", "choice", "clip", "dino"],
        ["ocr", "50.0", "(40.0", "to", "61.0)", "-"],
    ]
