"""The report's files from a study that is written here, through the stage's own command line."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.core.evaluation.intervals import wilson
from components.report.params import Params
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE
from components.runtime.stage import run_stage

PROBE = {"clip": {"object": 0.6, "word": 0.7, "style": 0.4}, "dino": {"object": 0.6, "word": 0.4, "style": 0.8}}
VMC = {"clip": {"general": 0.5, "ocr": 0.6}, "dino": {"general": 0.5, "ocr": 0.35}}
WriteStudy = Callable[..., list[str]]


def _report(argv: list[str], out: Path, *more: str) -> dict[str, Any]:
    assert run_stage(Params, [*argv, f"--out_uri={out}", *more]) == EXIT_DONE
    return json.loads((out / "results.json").read_text())


def test_the_results_hold_each_arms_accuracies_and_the_paired_differences(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    results = _report(write_study(PROBE, VMC), tmp_path / "out")
    low, high = wilson(280, 400)
    word = results["arms"]["clip"]["probe"]["word"]
    assert word == {"accuracy": 0.7, "low": round(low, 6), "high": round(high, 6), "n": 400, "chance": 0.1}
    assert results["arms"]["dino"]["vmc"]["ocr"]["accuracy"] == 0.35
    against = results["differences"]["against"]["dino"]
    assert against["probe"]["word"]["difference"] == pytest.approx(0.3) and against["probe"]["word"]["low"] > 0.2
    assert against["vmc"]["general"]["low"] < 0 < against["vmc"]["general"]["high"]
    assert results["differences"]["first"] == "clip" and results["schema"] == 1


def test_two_runs_give_the_same_results_byte_for_byte(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC)
    moved = write_study(PROBE, VMC, name="elsewhere", reverse_inputs=True)
    for number, of in enumerate((argv, argv, moved)):
        _report(of, tmp_path / f"out{number}")
    first, *others = ((tmp_path / f"out{number}" / "results.json").read_bytes() for number in range(3))
    assert others == [first, first]
    assert str(tmp_path).encode() not in first and b"seconds" not in first


def test_page_and_markdown_open_with_the_verdict(write_study: WriteStudy, tmp_path: Path) -> None:
    results = _report(write_study(PROBE, VMC), tmp_path / "out", "--title=Words & pictures")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))
    assert len(results["verdict"]) == 2
    assert text.startswith("# Words & pictures") and "<h1>Words &amp; pictures</h1>" in page
    for sentence in results["verdict"]:
        assert sentence in text and html.escape(sentence).replace("&#x27;", "&#39;") in page
    for heading in ("All else being equal", "Beside the paper", "What it cost", "Where it comes from"):
        assert f"## {heading}" in text and f">{heading}</h2>" in page
    assert "not published here" in text


class _Links(HTMLParser):
    """Collects every address that a page loads or points to, and the pictures without a text."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if (tag == "img" and not values.get("alt")) or (tag == "svg" and not values.get("aria-label")):
            self.silent.append(tag)


def test_the_page_asks_nobody_and_describes_every_picture(write_study: WriteStudy, tmp_path: Path) -> None:
    _report(write_study(PROBE, VMC), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    links = _Links()
    links.feed(page)
    assert links.addresses and all(address.startswith("data:image/webp;base64,") for address in links.addresses)
    assert not links.silent and "url(" not in page and "@import" not in page and "<script" not in page
    assert "<b>a caption</b>" not in page and "prefers-color-scheme: dark" in page


def test_the_parity_record_is_equal_and_lists_what_differs(write_study: WriteStudy, tmp_path: Path) -> None:
    parity = _report(write_study(PROBE, VMC), tmp_path / "out")["parity"]
    assert parity["trunk_init"] == {"clip": "a" * 64, "dino": "a" * 64} and parity["equal"] is True
    assert parity["differs"] == [{"name": "crops", "values": {"clip": "those of clip", "dino": "those of dino"}}]


@pytest.mark.parametrize("schedule", ["0" * 64, ""])
def test_another_or_a_missing_hash_is_not_parity(
    write_study: WriteStudy, write_schedule: Callable[[str, str], None], tmp_path: Path, schedule: str
) -> None:
    argv = write_study(PROBE, VMC)
    write_schedule("dino", schedule)
    assert _report(argv, tmp_path / "out")["parity"]["equal"] is False
    assert "Not all that should be equal is" in (tmp_path / "out" / "report.md").read_text()


def test_three_arms_are_each_compared_to_the_first(write_study: WriteStudy, tmp_path: Path) -> None:
    probe, vmc = PROBE | {"siglip": PROBE["clip"]}, VMC | {"siglip": VMC["clip"]}
    results = _report(write_study(probe, vmc), tmp_path / "out")
    assert list(results["differences"]["against"]) == ["dino", "siglip"]
    assert len(results["verdict"]) == 2 and "SigLIP" in results["verdict"][0]


def test_a_study_of_own_pictures_needs_no_synthetic_factor(write_study: WriteStudy, tmp_path: Path) -> None:
    probe = {"clip": {"category": 0.7}, "dino": {"category": 0.5}}
    results = _report(write_study(probe, {arm: {"general": 0.4} for arm in probe}), tmp_path / "out")
    assert results["verdict"][0].startswith("CLIP is ahead of DINO by 20.0 points in the linear probe of category")
    assert "left open" in results["verdict"][1]


def test_a_missing_arm_is_refused(write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [re.sub(r"(--vlms=[^,]*),.*", r"\1", word) for word in write_study(PROBE, VMC)]
    assert run_stage(Params, [*argv, f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert "--vlms holds the arms clip: expected each of clip, dino once" in capsys.readouterr().err


def test_predictions_that_belie_their_accuracy_are_refused(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = write_study(PROBE, VMC)
    scores = tmp_path / "study" / "evaluate" / "clip" / "scores.json"
    scores.write_text(scores.read_text().replace('"accuracy": 0.7,', '"accuracy": 0.9,'))
    assert run_stage(Params, [*argv, f"--out_uri={tmp_path / 'out'}"]) == EXIT_BAD_INPUT
    assert "don't give its accuracy" in capsys.readouterr().err


def test_the_report_needs_neither_torch_nor_scipy() -> None:
    code = "import sys, components.report.stage; sys.exit(bool({'torch', 'scipy', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
