"""Writes the study's page, its Markdown and its results.json, from what the other stages found."""

from components.report.findings.compare import compare_to
from components.report.findings.comparisons import Comparison, compare
from components.report.findings.outcomes import FILE, write_outcomes
from components.report.findings.parity import Parity, compare_parity
from components.report.findings.verdict import verdict
from components.report.page.render import render_markdown, render_page
from components.report.params import Params
from components.report.results import results
from components.report.sections.accuracies import lead_figures
from components.report.sections.contents import sections
from components.report.study import Study, read_study
from components.report.wording import arm_name, count, joined
from components.runtime.manifest import code_version
from components.runtime.stage import Outcome, Stage


def run(params: Params, stage: Stage) -> Outcome:
    """Writes the page, its Markdown, `results.json` and the outcomes; the last two are the same in every run."""
    study = read_study(stage)
    comparisons, parity, compared = compare(study), compare_parity(study), compare_to(study, stage)
    sentences = verdict(comparisons, study.confidence)
    facts = _facts(study, parity)
    parts = sections(study, comparisons, parity, compared, params.gpu_hour_price, code_version()["commit"])
    lead = lead_figures(study, comparisons)
    stage.out.write("report.html", render_page(study, params.title, sentences, facts, lead, parts).encode())
    stage.out.write("report.md", render_markdown(params.title, sentences, facts, parts).encode())
    stage.out.write_json("results.json", results(study, comparisons, parity, compared, sentences))
    write_outcomes(stage.out, study.tests)
    for sentence in sentences:
        stage.log("verdict", sentence=sentence)
    return Outcome(
        kind="ReportManifest",
        files=["report.html", "report.md", "results.json", FILE],
        counts={
            "arms": len(study.arms),
            "replicates": len(study.replicates),
            "factors": len(study.factors),
            "questions": len(study.first.runs[0].answers),
        },
        summary={"verdict": sentences, "parity_equal": parity.is_equal},
        metrics=_metrics(comparisons),
    )


def _facts(study: Study, parity: Parity) -> list[tuple[str, str]]:
    """Returns what stands beneath the verdict: the study in a few numbers."""
    runs = [run for arm in study.arms for run in arm.runs]
    seen = sorted({run.checkpoint.summary["num_samples_seen"] for run in runs})
    seeds = sorted({run.checkpoint.params["seed"] + run.replicate for run in runs})
    pictures = max(len(tested.ids_N) for tested in study.tests["probe"].values())
    return [
        ("Arms", joined([arm_name(arm.name) for arm in study.arms])),
        ("Samples seen by each", joined([count(n) for n in seen])),
        ("Test pictures", count(pictures)),
        ("Questions", count(len(study.first.runs[0].answers))),
        ("Seed" if len(seeds) == 1 else "Seeds", joined([str(seed) for seed in seeds])),
        ("Parity", "equal" if parity.is_equal else "not equal"),
    ]


def _metrics(comparisons: list[Comparison]) -> dict[str, float]:
    return {
        f"{comparison.first}_minus_{comparison.other}/{kind}/{_metric_name(name)}": found.difference
        for comparison in comparisons
        for kind in ("probe", "vmc")
        for name, found in comparison.differences[kind].items()
    }


def _metric_name(name: str) -> str:
    """Returns the name with the characters that MLflow accepts."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
