"""benchmark_vlm over a small model, the synthetic world's benchmark, and files in VMCBench's schema."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from components.benchmark_vlm.params import QUESTIONS_PER_PART, Params
from components.build_shards.params import Params as BuildShards
from components.core.evaluation.multiple_choice import GROUP_OF_SET, GROUPS
from components.core.models.vlm_files import save_vlm
from components.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_PREEMPTED
from components.runtime.stage import Stage, run_stage
from components.runtime.storage import LocalFolder
from tests.benchmark_vlm import vmcbench
from tests.manifests import commit

DEV, TEST = "data/dev-00000-of-00001.parquet", "data/test-00000-of-00002.parquet"
FILES = ("answers.jsonl", "scores.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with build_shards' benchmark, VMCBench's dev, and two models, of which one can answer."""
    folder = tmp_path_factory.mktemp("inputs")
    argv = [f"--out_uri={folder / 'benchmark'}", "--purpose=benchmark", "--image_size_px=16", "--num_samples=6"]
    assert run_stage(BuildShards, [*argv, "--num_workers=1"]) == EXIT_DONE
    vmcbench.write(folder / "vmcbench" / DEV, vmcbench.rows(1000))
    for name, steps in (("vlm", 200), ("untrained", 0)):
        save_vlm(LocalFolder(folder / name), vmcbench.model(steps=steps))
        commit(LocalFolder(folder / name), "VlmManifest", "train_vlm", summary={"arm": "clip", "replicate": 0})
    return folder


def argv(inputs: Path, out: Path, **changed: Any) -> list[str]:
    values = {"vlm": inputs / "vlm", "benchmark": inputs / "benchmark", "out_uri": out} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def asked(inputs: Path, out: Path, questions: Path, **changed: Any) -> list[str]:
    values = {"vlm": inputs / "vlm", "questions": questions, "out_uri": out} | changed
    return [f"--{name}={value}" for name, value in values.items()]


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_bytes())


def events(log: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if f'"event": "{name}"' in line]


def some(folder: Path, count: int, **options: Any) -> Path:
    """Writes so many questions in VMCBench's schema."""
    return vmcbench.write(folder / "some.parquet", vmcbench.rows(count, seed=3, **options))


def test_every_question_of_build_shards_is_answered_and_scored(inputs: Path, tmp_path: Path):
    assert run_stage(Params, argv(inputs, tmp_path)) == EXIT_DONE
    lines, sheet = answers(tmp_path), scores(tmp_path)
    assert sheet["arm"] == "clip" and sheet["unparsed_rate"] == 0 and sheet["splits"] == {}
    assert sheet["micro"]["n"] == len(lines) == sum(entry["n"] for entry in sheet["sets"].values()) == 6 * 9
    assert sheet["micro"]["accuracy"] == pytest.approx(sum(line["is_correct"] for line in lines) / len(lines))
    assert all(line["is_parsed"] and line["is_correct"] == (line["answer"] == line["predicted"]) for line in lines)
    assert json.loads((tmp_path / "manifest.json").read_bytes())["counts"]["pictures"] == 6


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_vmcbenchs_dev_split_runs_through(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str):
    assert run_stage(Params, asked(inputs, tmp_path, inputs / "vmcbench", mode=mode)) == EXIT_DONE
    sheet, lines = scores(tmp_path), answers(tmp_path)
    assert [line["index"] for line in lines] == [str(number) for number in range(1000)]
    assert {name: entry["n"] for name, entry in sheet["sets"].items()} == dict.fromkeys(GROUP_OF_SET, 50)
    assert {name: entry["n"] for name, entry in sheet["groups"].items()} == {
        name: 50 * len(sets) for name, sets in GROUPS.items()
    }
    assert sheet["splits"]["dev"] == sheet["micro"] and {line["split"] for line in lines} == {"dev"}
    assert sheet["micro"]["accuracy"] > 0.9
    (said,) = events(capsys.readouterr().err, "scored")
    assert said["unparsed_rate"] == sheet["unparsed_rate"] and said["questions"] == 1000
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("mode", ["score", "generate"])
@pytest.mark.parametrize("model", ["vlm", "untrained"])
def test_neither_the_batch_size_nor_the_run_changes_a_byte(inputs: Path, tmp_path: Path, mode: str, model: str):
    questions, outs = some(tmp_path, 120, per_picture=2), []
    for number, size in enumerate((1, 3, 8, 8)):
        outs.append(tmp_path / str(number))
        options = {"vlm": inputs / model, "mode": mode, "batch_size": size, "max_new_tokens": 4}
        assert run_stage(Params, asked(inputs, outs[-1], questions, **options)) == EXIT_DONE
    for file in FILES:
        assert len({(out / file).read_bytes() for out in outs}) == 1


def test_both_modes_agree(inputs: Path, tmp_path: Path):
    for mode in ("score", "generate"):
        assert run_stage(Params, asked(inputs, tmp_path / mode, inputs / "vmcbench", mode=mode)) == EXIT_DONE
    pairs = [
        (by_score["predicted"], generated["predicted"])
        for by_score, generated in zip(answers(tmp_path / "score"), answers(tmp_path / "generate"), strict=True)
        if generated["is_parsed"]
    ]
    assert len(pairs) > 900 and len({letter for letter, _ in pairs}) == 4
    assert sum(first == second for first, second in pairs) >= 0.99 * len(pairs)


def test_generated_replies_are_parsed(inputs: Path, tmp_path: Path):
    options = {"vlm": inputs / "untrained", "mode": "generate", "max_new_tokens": 3}
    assert run_stage(Params, asked(inputs, tmp_path / "out", some(tmp_path, 60), **options)) == EXIT_DONE
    sheet = scores(tmp_path / "out")
    unread = [line for line in answers(tmp_path / "out") if not line["is_parsed"]]
    assert unread and not any(line["is_correct"] or line["predicted"] for line in unread)
    assert sheet["unparsed_rate"] == pytest.approx(len(unread) / sheet["micro"]["n"])
    assert sheet["micro"]["quarter"] == pytest.approx(sheet["micro"]["accuracy"] + 0.25 * sheet["unparsed_rate"])


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_a_run_that_was_stopped_goes_on_and_gives_the_same_bytes(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str
):
    questions = some(tmp_path, 600, per_picture=3)
    options = {"mode": mode, "batch_size": 50, "max_new_tokens": 4}
    assert run_stage(Params, asked(inputs, tmp_path / "unbroken", questions, **options)) == EXIT_DONE
    again = asked(inputs, tmp_path / "stopped", questions, **options)
    kept = []
    for stop_after in (1, 3, 4, 9):  # checks: while pictures are encoded, and after batches of several parts
        checks = itertools.count(1)
        monkeypatch.setattr(Stage, "stopping", lambda _, checks=checks, last=stop_after: next(checks) >= last)
        assert run_stage(Params, again) == EXIT_PREEMPTED
        kept += [found["replies_kept"] for found in events(capsys.readouterr().err, "continued")]
    monkeypatch.undo()
    assert run_stage(Params, again) == EXIT_DONE
    (last,) = events(capsys.readouterr().err, "continued")
    assert kept == sorted(kept) and kept[0] > 0 and QUESTIONS_PER_PART < last["replies_kept"] < 600
    assert last["replies_kept"] + last["replies_missing"] == 600
    for file in FILES:
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()


@pytest.mark.slow  # two processes that import torch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_stopped_or_killed_goes_on(inputs: Path, tmp_path: Path, number: signal.Signals):
    questions = vmcbench.write(tmp_path / "many.parquet", vmcbench.rows(600, seed=4))
    options = {"mode": "generate", "batch_size": 4}
    again = asked(inputs, tmp_path / "stopped", questions, **options)
    process = subprocess.Popen([sys.executable, "-m", "components.benchmark_vlm", *again])
    while not list((tmp_path / "stopped").glob("parts/0000*.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == (EXIT_PREEMPTED if number == signal.SIGTERM else -signal.SIGKILL)
    assert run_stage(Params, again) == EXIT_DONE
    assert run_stage(Params, asked(inputs, tmp_path / "unbroken", questions, **options)) == EXIT_DONE
    assert (tmp_path / "stopped" / FILES[0]).read_bytes() == (tmp_path / "unbroken" / FILES[0]).read_bytes()


@pytest.mark.parametrize("changed", [{"vlm": "untrained"}, {"mode": "score"}, {"max_new_tokens": 2}])
def test_replies_to_something_else_are_not_taken_over(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
):
    questions, options = some(tmp_path, 40), {"mode": "generate", "batch_size": 10, "max_new_tokens": 4}
    if "vlm" in changed:
        changed = {"vlm": inputs / changed["vlm"]}
    checks = itertools.count(1)
    monkeypatch.setattr(Stage, "stopping", lambda _: next(checks) >= 6)
    assert run_stage(Params, asked(inputs, tmp_path / "out", questions, **options)) == EXIT_PREEMPTED
    monkeypatch.undo()
    assert run_stage(Params, asked(inputs, tmp_path / "out", questions, **options | changed)) == EXIT_DONE
    assert not events(capsys.readouterr().err, "continued")
    assert run_stage(Params, asked(inputs, tmp_path / "alone", questions, **options | changed)) == EXIT_DONE
    assert answers(tmp_path / "out") == answers(tmp_path / "alone")


def test_dev_and_test_are_told_apart(inputs: Path, tmp_path: Path):
    vmcbench.write(tmp_path / DEV, vmcbench.rows(30))
    vmcbench.write(tmp_path / TEST, vmcbench.rows(50, seed=1))
    assert run_stage(Params, asked(inputs, tmp_path / "out", tmp_path / "data")) == EXIT_DONE
    lines, sheet = answers(tmp_path / "out"), scores(tmp_path / "out")
    assert Counter(line["split"] for line in lines) == {"dev": 30, "test": 50}
    assert lines[0]["index"] == "dev-0" and lines[30]["index"] == "test-0" and len({x["index"] for x in lines}) == 80
    assert sheet["micro"]["n"] == 80 and sheet["splits"]["test"]["n"] == 50
    assert run_stage(Params, asked(inputs, tmp_path / "one", tmp_path / TEST)) == EXIT_DONE
    alone = answers(tmp_path / "one")
    assert [line["predicted"] for line in alone] == [line["predicted"] for line in lines[30:]]
    assert alone[0]["index"] == "0" and alone[0]["split"] == "test"


def test_published_questions_take_the_place_of_the_benchmark(inputs: Path, tmp_path: Path):
    assert run_stage(Params, argv(inputs, tmp_path / "out", questions=some(tmp_path, 12))) == EXIT_DONE
    assert len(answers(tmp_path / "out")) == 12


def test_only_options_that_exist_are_chosen(inputs: Path, tmp_path: Path):
    rows = vmcbench.rows(400)
    for row in rows:
        row |= {"C": None, "D": ""} if row["index"] % 2 else {"D": None}
        row["answer"] = "A"
    path = vmcbench.write(tmp_path / "fewer.parquet", rows)
    assert run_stage(Params, asked(inputs, tmp_path / "out", path)) == EXIT_DONE
    lines = answers(tmp_path / "out")
    assert {line["predicted"] for line in lines[1::2]} == {"A", "B"}
    assert {line["predicted"] for line in lines[::2]} == {"A", "B", "C"}
    assert scores(tmp_path / "out")["micro"]["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_other_sets_make_up_a_group_where_that_is_wanted(inputs: Path, tmp_path: Path):
    rows = [row | {"category": "Mine"} if row["index"] % 2 else row for row in vmcbench.rows(20)]
    path = vmcbench.write(tmp_path / "mine.parquet", rows)
    assert run_stage(Params, asked(inputs, tmp_path / "out", path, other_group="true")) == EXIT_DONE
    sheet = scores(tmp_path / "out")
    assert sheet["groups"]["other"]["n"] == sheet["sets"]["Mine"]["n"] == 10


def refused(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one sentence by which a command is refused."""
    assert run_stage(Params, list(command)) == EXIT_BAD_INPUT
    (found,) = events(capsys.readouterr().err, "bad_input")
    return found["problem"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"answer": "E"}, "question 250 has the answer 'E': expected A, B, C or D"),
        ({"category": "Nobody"}, "question 250 is of the set 'Nobody', which belongs to no group"),
        ({"index": 7}, "the index 7 occurs twice"),
        ({"image": None}, "question 250 has no picture"),
        ({"image": {"bytes": None, "path": "250.png"}}, "question 250 has no picture"),
        ({"image": {"bytes": b"no picture", "path": ""}}, "picture of question 250 can't be decoded"),
        ({"image": {"bytes": vmcbench.png((1, 2, 3))[:-30], "path": ""}}, "picture of question 250 can't be decoded"),
        ({"question": None}, "question 250 has nothing in question"),
        ({"question": "why " * 5000}, "longer than the 4096 tokens"),
    ],
)
def test_a_faulty_row_is_refused(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], sentence: str
):
    rows = vmcbench.rows(300)
    rows[250] |= changed
    path = vmcbench.write(tmp_path / "faulty.parquet", rows)
    problem = refused(asked(inputs, tmp_path / "out", path), capsys)
    assert sentence in problem and problem.startswith(("--questions=", "--vlm="))


def test_a_faulty_file_is_refused(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def said(name: str) -> str:
        return refused(asked(inputs, tmp_path / "out", tmp_path / name), capsys)

    (tmp_path / "empty.parquet").write_bytes(b"")
    assert "is no parquet file" in said("empty.parquet")
    whole = vmcbench.write(tmp_path / "whole.parquet", vmcbench.rows(20)).read_bytes()
    (tmp_path / "short.parquet").write_bytes(whole[:-100])
    assert "is no parquet file" in said("short.parquet")
    vmcbench.write(tmp_path / "none.parquet", [])
    assert "has no questions" in said("none.parquet")
    lacking = pyarrow.schema([field for field in vmcbench.SCHEMA if field.name not in ("D", "image")])
    vmcbench.write(tmp_path / "lacking.parquet", vmcbench.rows(3), lacking)
    assert "it lacks the columns D, image: expected index, question, A" in said("lacking.parquet")
    assert "holds no parquet file" in said("nowhere.parquet")
    (tmp_path / "folder").mkdir()
    assert "holds no parquet file" in said("folder")


def test_without_questions_nothing_begins(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = [f"--vlm={inputs / 'vlm'}", f"--out_uri={tmp_path / 'out'}"]
    assert "--benchmark is empty" in refused(command, capsys)
    (inputs / "elsewhere").mkdir()
    commit(LocalFolder(inputs / "elsewhere"), "BenchmarkManifest", "build_shards")
    assert "has no benchmark.parquet" in refused([*command, f"--benchmark={inputs / 'elsewhere'}"], capsys)
