"""The report's sections, in order."""

from collections.abc import Sequence

from components.report.findings.compare import Compared
from components.report.findings.comparisons import Comparison
from components.report.findings.paper_values import confounds
from components.report.findings.parity import Parity
from components.report.page.content import Points, Section
from components.report.sections.accuracies import benchmark_section, probe_section, seeds_part
from components.report.sections.beside import beside_section
from components.report.sections.embeddings import embeddings_section
from components.report.sections.paper import paper_section
from components.report.sections.records import data_section, parity_section, provenance_section
from components.report.sections.training import cost_section, curves_section
from components.report.study import Study


def sections(
    study: Study,
    comparisons: Sequence[Comparison],
    parity: Parity,
    compared: Compared | None,
    gpu_hour_price: float,
    commit: str,
) -> list[Section]:
    """Returns the whole report below its verdict."""
    first, second = probe_section(study, comparisons), benchmark_section(study, comparisons)
    seeds = seeds_part(study)
    return [
        first,
        second,
        paper_section(study, comparisons),
        *([beside_section(study, compared)] if compared else []),
        embeddings_section(study),
        curves_section(study),
        cost_section(study, gpu_hour_price),
        parity_section(study, parity),
        Section("confounds", "What this can't tell apart", [Points(confounds(len(study.replicates)))]),
        *([Section("seeds", "Seed by seed", seeds)] if seeds else []),
        data_section(study),
        provenance_section(study, commit),
    ]
