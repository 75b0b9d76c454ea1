"""The study as one Kubeflow pipeline, raw pictures to report, in the order of the data."""

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
from pipelines.design import ALL, Design
from pipelines.knobs import Knobs, value
from pipelines.placement import Hardware, Site
from pipelines.steps import Steps


def encoder_study(design: Design, knobs: Knobs, hardware: Mapping[str, Hardware], site: Site) -> Any:
    """Returns the pipeline that trains and compares the arms.

    Args:
        design: The arms, how often each is trained, and what probes them.
        knobs: What differs from the stages' defaults, by stage or task.
        hardware: What each stage asks of a cluster.
        site: Where it will run: images, node pools.
    """

    @dsl.pipeline(name="encoder-study", pipeline_config=site.config())
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
        compare_uri: str = "",
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
            compare_uri: Folder of another study's report to lay beside this one; empty: none.
        """
        steps = Steps(out_uri, knobs, hardware, site)

        def build(name: str, num_samples: Any, **of_set: Any) -> Any:
            world = {"purpose": name, "source_uri": source_uri, "seed": seed, "num_samples": num_samples}
            return steps.add(build_shards, name, **world | of_set)

        captioned, labelled = build("pretrain", num_pretrain_samples), build("probe", num_probe_samples, **design.first)
        conversations, questions = build("instruct", num_instruct_samples), build("benchmark", num_questions)
        sets = {"": labelled} | {name: build(name, ALL, **of_set) for name, of_set in design.others.items()}
        common = {"shards": captioned, "seed": seed, "study": f"{out_uri}/pretrain"}
        common |= {"num_samples_seen": num_samples_seen, "batch_size": batch_size, "learning_rate": learning_rate}
        if value(knobs, "pretrain", "probe_every_steps"):
            common |= {"probe_shards": f"{out_uri}/build_shards/probe", "after": "build_shards/probe"}
        encoders, features, evaluations, vlms, benchmarks = (dict[str, Any]() for _ in range(5))
        for each in design.encoders:
            encoder = encoders[each.name] = steps.add(pretrain, each.name, **vars(each), **common)
            for labelled_set, shards in sets.items():
                name = each.on(labelled_set)
                features[name] = steps.add(extract_features, name, checkpoint=encoder, shards=shards)
                more = {"seed": seed, "shards": f"{out_uri}/build_shards/{labelled_set or 'probe'}"}
                more |= {"pretrain_shards": f"{out_uri}/build_shards/pretrain"}
                if elsewhere := design.trained_on(each, labelled_set):
                    more |= {"train_features": f"{out_uri}/{elsewhere}", "after": elsewhere}
                evaluations[name] = steps.add(evaluate, name, features=features[name], **more)
        analysed = {"features": {name: features[name] for name in encoders}}
        analysis = steps.compare(analyze_embeddings, {"shards": labelled, "seed": seed}, **analysed)
        for name, encoder in encoders.items():
            parts = {"checkpoint": encoder, "language_model": language_model, "seed": seed}
            vlms[name] = steps.add(train_vlm, name, shards=conversations, **parts)
            benchmarks[name] = steps.add(benchmark_vlm, name, vlm=vlms[name], benchmark=questions)
        data = {"pretrain": captioned, "probe": labelled, "instruct": conversations, "benchmark": questions}
        found = {f"shards_{purpose}": shards for purpose, shards in data.items()}
        found |= {"analysis": analysis, "gpu_hour_price": gpu_hour_price, "compare": compare_uri}
        steps.compare(report, found, checkpoints=encoders, evaluations=evaluations, vlms=vlms, benchmarks=benchmarks)

    return study
