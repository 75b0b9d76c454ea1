"""The study as one Kubeflow pipeline, raw pictures to report, in the order of the data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from pipelines.knobs import Knobs, chosen, value
from pipelines.placement import Hardware, place


def encoder_study(
    arms: Sequence[str], knobs: Knobs, hardware: Mapping[str, Hardware], images: Mapping[str, str]
) -> Any:
    """Returns the pipeline that trains and compares the arms.

    Args:
        arms: Kinds of supervision; they share everything else.
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

        def run(component: Any, task: str, **inputs: Any) -> Any:
            """Adds a task that writes the folder of its own name, and returns its main artefact."""
            rest = {knob: number for knob, number in chosen(knobs, task).items() if knob not in inputs}
            step = component(out_uri=f"{out_uri}/{task}", **inputs, **rest).set_display_name(task.replace("/", " "))
            return next(iter(place(step, hardware.get(task.partition("/")[0]), images).outputs.values()))

        def build(purpose: str, num_samples: Any) -> Any:
            world = {"source_uri": source_uri, "seed": seed, "num_samples": num_samples}
            return run(build_shards, f"build_shards/{purpose}", purpose=purpose, **world)

        def each(*fields: str) -> dict[str, Any]:
            return {f"{field}_{arm}": made[field][arm] for field in fields for arm in arms}

        captioned, labelled = build("pretrain", num_pretrain_samples), build("probe", num_probe_samples)
        conversations, questions = build("instruct", num_instruct_samples), build("benchmark", num_questions)
        data = {"pretrain": captioned, "probe": labelled, "instruct": conversations, "benchmark": questions}
        recipe = {"num_samples_seen": num_samples_seen, "batch_size": batch_size, "learning_rate": learning_rate}
        common = {"shards": captioned, "seed": seed, "study": f"{out_uri}/pretrain"}
        made: dict[str, dict[str, Any]] = defaultdict(dict)  # input of the stages that compare -> arm -> artefact
        for arm in arms:
            encoder = run(pretrain, f"pretrain/{arm}", arm=arm, **common, **recipe)
            features = run(extract_features, f"extract_features/{arm}", checkpoint=encoder, shards=labelled)
            made["checkpoints"][arm], made["features"][arm] = encoder, features
            made["evaluations"][arm] = run(evaluate, f"evaluate/{arm}", features=features, seed=seed)

        looked_at = {"shards": labelled, "seed": seed} | each("features")
        analysis = run(analyze_embeddings(arms), "analyze_embeddings", **looked_at)
        for arm in arms:
            parts = {"checkpoint": made["checkpoints"][arm], "language_model": language_model, "seed": seed}
            vlm = made["vlms"][arm] = run(train_vlm, f"train_vlm/{arm}", shards=conversations, **parts)
            made["benchmarks"][arm] = run(benchmark_vlm, f"benchmark_vlm/{arm}", vlm=vlm, benchmark=questions)
        found = each("checkpoints", "evaluations", "vlms", "benchmarks")
        found |= {f"shards_{purpose}": shards for purpose, shards in data.items()}
        run(report(arms), "report", analysis=analysis, gpu_hour_price=gpu_hour_price, **found)

    return study
