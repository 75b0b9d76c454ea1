"""The report's page and Markdown from a study that is written here, through the stage's own command line."""

import base64
import hashlib
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

from components.report.params import Params
from components.report.wording import percent, signed_points
from components.runtime.errors import EXIT_DONE
from components.runtime.stage import run_stage
from components.runtime.storage import LocalFolder
from tests.report.conftest import commit

PROBE = {"clip": {"object": 0.6, "word": 0.7, "style": 0.4}, "dino": {"object": 0.6, "word": 0.4, "style": 0.8}}
VMC = {"clip": {"general": 0.5, "ocr": 0.6}, "dino": {"general": 0.5, "ocr": 0.35}}
SEVERAL = {"clip": {"object": 0.6, "word": [0.7, 0.75, 0.65]}, "dino": {"object": 0.6, "word": [0.4, 0.35, 0.45]}}
ARMS = ("clip", "dino", "siglip", "clip_lm", "slip")
WriteStudy = Callable[..., list[str]]
VOID = {"meta", "img", "input", "br", "hr", "link"}


class _Page(HTMLParser):
    """What a page loads, names and shows in tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.silent: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.inline: list[str] = []
        self.scopes: list[str | None] = []
        self.tables: list[list[list[str]]] = []
        self.titles: list[str] = []
        self.script, self.style, self.policy = "", "", ""
        self._open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        self.addresses += [values[name] or "" for name in ("src", "srcset", "action") if name in values]
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids += [values["id"] or ""] if "id" in values else []
        self.inline += [name for name in values if name == "style" or name.startswith("on")]
        is_hidden = values.get("aria-hidden") == "true"
        if (tag == "img" and not values.get("alt")) or (tag == "svg" and not (values.get("aria-label") or is_hidden)):
            self.silent.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.levels.append(int(tag[1]))
        if tag == "th":
            self.scopes.append(values.get("scope"))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag == "title":
            self.titles.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "title":
            self.titles[-1] += data
        if inside == "style":
            self.style += data
        if inside == "script" and not data.lstrip().startswith("{"):
            self.script += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += f" ({data})" if inside == "small" else data


def _report(argv: list[str], out: Path, *more: str) -> tuple[dict[str, Any], _Page, str]:
    """Returns the results, the page and the Markdown."""
    assert run_stage(Params, [*argv, f"--out_uri={out}", *more]) == EXIT_DONE
    return json.loads((out / "results.json").read_text()), _Page(out / "report.html"), (out / "report.md").read_text()


def _markdown_tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    previous = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                tables.append([])
            tables[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        previous = line
    return tables


def _plain(cell: str) -> str:
    """Returns a cell without what only one of the renderings has."""
    return re.sub(r"[\s`]+", " ", cell.replace("\u2019", "'").replace("\\|", "|")).strip().removeprefix("(").rstrip(")")


def _of_two(write_study: WriteStudy, tmp_path: Path) -> list[str]:
    return write_study(PROBE, VMC)


def _of_three_seeds_beside_another(write_study: WriteStudy, tmp_path: Path) -> list[str]:
    _report(write_study(PROBE, VMC, name="there"), tmp_path / "other")
    return [*write_study(SEVERAL, VMC, num_replicates=3), f"--compare={tmp_path / 'other'}", "--gpu_hour_price=2"]


def _of_five(write_study: WriteStudy, tmp_path: Path) -> list[str]:
    return write_study(dict.fromkeys(ARMS, PROBE["clip"]), dict.fromkeys(ARMS, VMC["dino"]), num_replicates=2)


def _without_analysis(write_study: WriteStudy, tmp_path: Path) -> list[str]:
    argv = write_study(PROBE, VMC)
    folder = LocalFolder(tmp_path / "study" / "analyze_embeddings")
    for name in list(folder.names()):
        (tmp_path / "study" / "analyze_embeddings" / name).unlink()
    folder.write_json("analysis.json", {"schema": 2})
    folder.write_json("pairs.json", {"schema": 1, "directions": []})
    commit(folder, "AnalysisManifest", "analyze_embeddings")
    return argv


@pytest.mark.parametrize("study", [_of_two, _of_three_seeds_beside_another, _of_five, _without_analysis])
def test_every_page_stands_by_itself_and_can_be_read_by_everyone(
    write_study: WriteStudy, tmp_path: Path, study: Callable[[WriteStudy, Path], list[str]]
) -> None:
    _, page, text = _report(study(write_study, tmp_path), tmp_path / "out")
    assert all(address.startswith("data:image/webp;base64,") for address in page.addresses)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids)) and not page.silent and not page.inline
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.levels, page.levels[1:], strict=False))
    assert page.tables and set(page.scopes) == {"col", "row", "colgroup"}
    assert "url(" not in page.style and "@import" not in page.style and "fetch(" not in page.script
    shown = [[[_plain(cell) for cell in row] for row in table] for table in page.tables]
    written = [[[_plain(cell) for cell in row] for row in table[2:]] for table in _markdown_tables(text)]
    assert [table[-len(rows) :] for table, rows in zip(shown, written, strict=True)] == written


def test_the_policy_lets_nothing_in_but_the_pages_own_style_and_script(write_study: WriteStudy, tmp_path: Path) -> None:
    _, page, _ = _report(write_study(PROBE, VMC), tmp_path / "out")
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    for kind, content in (("style", page.style), ("script", page.script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy


def test_page_and_markdown_open_with_the_verdict(write_study: WriteStudy, tmp_path: Path) -> None:
    results, _, text = _report(write_study(PROBE, VMC), tmp_path / "out", "--title=Words & pictures")
    page = html.unescape((tmp_path / "out" / "report.html").read_text()).replace("\u2019", "'")
    assert text.startswith("# Words & pictures") and "<h1>Words & pictures</h1>" in page
    for sentence in results["verdict"]:
        assert sentence in text and sentence in page
    for heading in ("All else being equal", "Beside the paper", "What it cost", "Where it comes from"):
        assert f"## {heading}" in text and f">{heading}</h2>" in page
    assert "<b>a caption</b>" not in (tmp_path / "out" / "report.html").read_text()


def test_the_numbers_of_the_page_are_those_of_the_results(write_study: WriteStudy, tmp_path: Path) -> None:
    results, page, _ = _report(write_study(SEVERAL, VMC, num_replicates=3), tmp_path / "out")
    (row,) = [row for row in page.tables[0] if row[:2] == ["word", "linear probe"]]
    for column, arm in ((2, "clip"), (3, "dino")):
        found = results["arms"][arm]["probe"]["word"]
        interval = f"{percent(found['low'])}\u2013{percent(found['high'])}"
        assert row[column] == f"{percent(found['mean'])} ({interval})"
        name = {"clip": "CLIP", "dino": "DINO"}[arm]
        hint = f"{name}, word: {percent(found['mean'])} %, interval {interval.replace(chr(0x2013), ' to ')}, n = 400"
        assert any(title.startswith(hint) and "; seeds " in title for title in page.titles)
    difference = results["differences"]["against"]["dino"]["probe"]["word"]["difference"]
    assert row[4].startswith(signed_points(difference)) and row[5:] == ["10.0", "400"]
    seeds = next(row for table in page.tables for row in table if row[:3] == ["word", "linear probe", "CLIP"])
    assert seeds[3:] == ["70.0", "75.0", "65.0", "70.0", "5.0"]


def test_a_tick_stands_for_each_seed_and_for_none_where_there_is_one(write_study: WriteStudy, tmp_path: Path) -> None:
    for name, probe, number in (("one", PROBE, 1), ("three", SEVERAL, 3)):
        _report(write_study(probe, VMC, name=name, num_replicates=number), tmp_path / f"out_{name}")
        page = (tmp_path / f"out_{name}" / "report.html").read_text()
        ticks = {path.count("v5") for path in re.findall(r'class="seed" d="([^"]*)"', page)}
        assert ticks == ({3} if number == 3 else set())
        assert ("Seed by seed" in page) == (number == 3)


def test_the_same_curve_is_shown_by_samples_and_by_flop(write_study: WriteStudy, tmp_path: Path) -> None:
    _, page, _ = _report(write_study(PROBE, VMC), tmp_path / "out")
    assert "CLIP, CLIP loss at 192 samples seen: 4.000" in page.titles  # the last of three, 192 samples of 1e8 FLOP
    assert "CLIP, CLIP loss at 19.2 training GFLOP: 4.000" in page.titles


def test_accuracy_while_training_is_shown_where_it_was_measured(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC)
    for arm in ("clip", "dino"):
        folder = LocalFolder(tmp_path / "study" / "pretrain" / arm)
        values = {"loss": [3.0, 2.0, 1.0], "probe/knn_word": [None, 0.25, 0.5]}
        folder.write_json("curve.json", {"steps": [1, 2, 3], "samples_seen": [64, 128, 192], "values": values})
    _, page, _ = _report(argv, tmp_path / "out")
    assert "DINO, k-NN, word: accuracy, % at 128 samples seen: 25.0 %" in page.titles


def test_the_papers_values_stand_beside_ours(write_study: WriteStudy, tmp_path: Path) -> None:
    probe = {"clip": {"imagenet": 0.7}, "dino": {"imagenet": 0.65}}
    _, page, text = _report(write_study(probe, VMC), tmp_path / "out")
    (row,) = [row for table in page.tables for row in table if row[0] == "ImageNet, linear probe"]
    assert row[1:5] == ["65.8", "66.4", "\u22120.6", "S"]
    assert row[5].startswith("70.0") and row[6].startswith("65.0") and row[7].startswith("+5.0") and row[8] == "400"
    (ocr,) = [row for table in page.tables for row in table if row[0] == "VMCBench OCR"]
    assert ocr[1:5] == ["not published here", "not published here", "+7.5", "P"] and ocr[5].startswith("60.0")
    assert "CLIP of the paper, ImageNet: 65.8 %" in page.titles and "not published here" in text


def test_the_order_of_the_arms_does_not_turn_the_papers_difference(write_study: WriteStudy, tmp_path: Path) -> None:
    turned = {arm: PROBE[arm] for arm in ("dino", "clip")}, {arm: VMC[arm] for arm in ("dino", "clip")}
    _, page, _ = _report(write_study(*turned), tmp_path / "out")
    (ocr,) = [row for table in page.tables for row in table if row[0] == "VMCBench OCR"]
    assert ocr[7].startswith("+25.0")


def test_a_price_and_gpu_hours_are_shown_only_where_there_are_any(write_study: WriteStudy, tmp_path: Path) -> None:
    argv = write_study(PROBE, VMC)
    _, page, _ = _report(argv, tmp_path / "free")
    (heads,) = [table[1] for table in page.tables if "CPU-hours" in table[1]]
    assert "price" not in heads
    gpu = {"seconds": 7200, "cpu_seconds": 3600, "samples_per_s": 100, "device": "NVIDIA H100", "ranks": 4}
    path = tmp_path / "study" / "pretrain" / "clip" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cost": gpu}))
    _, page, _ = _report(argv, tmp_path / "priced", "--gpu_hour_price=2.5")
    (table,) = [table for table in page.tables if "CPU-hours" in table[1]]
    by_arm = {row[0]: dict(zip(table[1], row, strict=True)) for row in table[2:]}
    assert by_arm["CLIP"]["GPU-hours"] == "8.00" and by_arm["CLIP"]["price"] == "20.0"
    assert by_arm["CLIP"]["trained on"] == "4 \u00d7 NVIDIA H100" and by_arm["DINO"]["price"] == "\u2013"


def test_mlflow_is_linked_where_its_server_is_known_and_else_its_command_given(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = write_study(PROBE, VMC)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, page, text = _report(argv, tmp_path / "without")
    assert "mlflow ui --backend-store-uri" in text and not any(link.startswith("http") for link in page.links)
    from components.report.sections.records import provenance_section
    from components.report.study import read_study
    from components.runtime import params
    from components.runtime.logs import Log
    from components.runtime.stage import Stage

    study = read_study(Stage(params.parse(Params, [*argv, "--out_uri=nowhere"]), Log("report")))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my study")
    links = [part.link for part in provenance_section(study, "").parts if part.kind == "prose"]
    address = "https://mlflow.example/#/experiments?experimentSearchFilter=my%20study"
    assert ("Experiment my study", address) in links


def test_leaked_pictures_are_counted_on_the_page(write_study: WriteStudy, tmp_path: Path) -> None:
    _, _, text = _report(write_study(PROBE, VMC), tmp_path / "out")
    assert "Test pictures that occur, byte for byte, among the training pictures: 3 of 400 (0.8 %)." in text


def test_the_report_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, components.report.stage; sys.exit(bool({'torch', 'matplotlib'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_three_arms_are_each_compared_to_the_first(write_study: WriteStudy, tmp_path: Path) -> None:
    probe, vmc = PROBE | {"siglip": PROBE["clip"]}, VMC | {"siglip": VMC["clip"]}
    results, page, _ = _report(write_study(probe, vmc), tmp_path / "out")
    assert list(results["differences"]["against"]) == ["dino", "siglip"]
    assert {"CLIP \u2212 DINO", "CLIP \u2212 SigLIP"} <= set(page.tables[0][1])


def test_a_study_of_own_pictures_needs_no_synthetic_factor(write_study: WriteStudy, tmp_path: Path) -> None:
    probe = {"clip": {"category": 0.7}, "dino": {"category": 0.5}}
    results, _, _ = _report(write_study(probe, {arm: {"general": 0.4} for arm in probe}), tmp_path / "out")
    assert results["verdict"][0].startswith("CLIP is ahead of DINO by 20.0 points in the linear probe of category")
    assert "left open" in " ".join(results["verdict"])
