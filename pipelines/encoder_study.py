"""The study as one Kubeflow pipeline, raw pictures to report, in the order of the data."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.analyze_embeddings.component import analyze_embeddings
from components.benchmark_vlm.component import benchmark_vlm
from components.build_shards.component import build_shards
from components.evaluate.component import evaluate
from components.extract_features.component import extract_features
from components.pretrain.component import pretrain
from components.report.component import report
from components.train_vlm.component import train_vlm
from pipelines.design import Design
from pipelines.knobs import Knobs, chosen, value
from pipelines.placement import Hardware, place


def encoder_study(design: Design, knobs: Knobs, hardware: Mapping[str, Hardware], images: Mapping[str, str]) -> Any:
    """Returns the pipeline that trains and compares the arms.

    Args:
        design: The arms, which share everything but the objective, and how often each is trained.
        knobs: What differs from the stages' defaults, by stage or task.
        hardware: What each stage asks of a cluster.
        images: Image by dependency set, where it isn't the default one.
    """

    @dsl.pipeline(name="encoder-study")
    def study(
        out_uri: str,
        source_uri: str = value(knobs, "build_shards", "source_uri"),
        seed: int = value(knobs, "pretrain", "seed"),
        num_pretrain_samples: int = value(knobs, "build_shards/pretrain", "num_samples"),
        num_probe_samples: int = value(knobs, "build_shards/probe", "num_samples"),
        num_instruct_samples: int = value(knobs, "build_shards/instruct", "num_samples"),
        num_questions: int = value(knobs, "build_shards/benchmark", "num_samples"),
        num_samples_seen: int = value(knobs, "pretrain", "num_samples_seen"),
        batch_size: int = value(knobs, "pretrain", "batch_size"),
        learning_rate: float = value(knobs, "pretrain", "learning_rate"),
        language_model: str = value(knobs, "train_vlm", "language_model"),
        gpu_hour_price: float = value(knobs, "report", "gpu_hour_price"),
    ) -> None:
        """Trains one vision encoder per kind of supervision, all else being equal, and reports what each sees.

        Args:
            out_uri: Folder for everything that the study writes, such as s3://bucket/study/run.
            source_uri: `synthetic` for the synthetic world, else a folder of pictures.
            seed: Seed of data, initialisation, sample order and augmentation; the same for every arm.
            num_pretrain_samples: Captioned pictures to train the encoders on.
            num_probe_samples: Labelled pictures to probe the encoders with.
            num_instruct_samples: Pictures with conversations to train the vision-language models on.
            num_questions: Pictures to ask multiple-choice questions about.
            num_samples_seen: Length of each encoder's training in samples.
            batch_size: Global batch of each encoder's training.
            learning_rate: Peak of each encoder's cosine schedule.
            language_model: `tiny` to make a small one, else a name or path for transformers.
            gpu_hour_price: Price of one GPU-hour for the report's cost table; 0 leaves it out.
        """

        def run(component: Any, variant: str = "", **inputs: Any) -> Any:
            """Adds a task that writes the folder of its own name, and returns its main artefact."""
            task = component.name.replace("-", "_") + (f"/{variant}" if variant else "")
            rest = {knob: number for knob, number in chosen(knobs, task).items() if knob not in inputs}
            step = component(out_uri=f"{out_uri}/{task}", **inputs, **rest).set_display_name(task.replace("/", " "))
            return next(iter(place(step, hardware.get(task.partition("/")[0]), images).outputs.values()))

        def build(purpose: str, num_samples: Any) -> Any:
            world = {"source_uri": source_uri, "seed": seed, "num_samples": num_samples}
            return run(build_shards, purpose, purpose=purpose, **world)

        def compare(component: Any, *fields: str, **inputs: Any) -> Any:
            """Adds a task that reads what was made of every encoder."""
            artefacts = {f"{field}_{name}": made[field][name] for field in fields for name in design.names}
            return run(component(dict.fromkeys(fields, design.names)), **inputs, **artefacts)

        captioned, labelled = build("pretrain", num_pretrain_samples), build("probe", num_probe_samples)
        conversations, questions = build("instruct", num_instruct_samples), build("benchmark", num_questions)
        recipe = {"num_samples_seen": num_samples_seen, "batch_size": batch_size, "learning_rate": learning_rate}
        common = {"shards": captioned, "seed": seed, "study": f"{out_uri}/pretrain"}
        made: dict[str, dict[str, Any]] = defaultdict(dict)  # input of the stages that compare -> encoder -> artefact
        for each in design.encoders:
            name, kind = each.name, {"arm": each.arm, "replicate": each.replicate}
            encoder = made["checkpoints"][name] = run(pretrain, name, **kind, **common, **recipe)
            features = made["features"][name] = run(extract_features, name, checkpoint=encoder, shards=labelled)
            made["evaluations"][name] = run(evaluate, name, features=features, seed=seed)

        analysis = compare(analyze_embeddings, "features", shards=labelled, seed=seed)
        for name, encoder in made["checkpoints"].items():
            parts = {"checkpoint": encoder, "language_model": language_model, "seed": seed}
            vlm = made["vlms"][name] = run(train_vlm, name, shards=conversations, **parts)
            made["benchmarks"][name] = run(benchmark_vlm, name, vlm=vlm, benchmark=questions)
        data = {"pretrain": captioned, "probe": labelled, "instruct": conversations, "benchmark": questions}
        found = {"analysis": analysis, "gpu_hour_price": gpu_hour_price} | {f"shards_{p}": s for p, s in data.items()}
        compare(report, "checkpoints", "evaluations", "vlms", "benchmarks", **found)

    return study
