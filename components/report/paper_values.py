"""What is known of the paper's own results, each with where it is known from; nothing is filled in by guess.

Liu, Zhang, Ghosh, Schmidt, Yeung-Levy: "Data or Language Supervision: What Makes CLIP Better than DINO?", Findings of
EMNLP 2025 (arXiv 2510.11835). P: stated by the authors; S: stated by a secondary source; I: inferred.
"""

import dataclasses

UNKNOWN = "not published here"
MARKS = {"P": "stated by the authors", "S": "stated by a secondary source", "I": "inferred"}


@dataclasses.dataclass(frozen=True)
class PaperValue:
    """One measurement of the paper.

    Attributes:
        name: What was measured.
        clip: The paper's value for CLIP; empty where it is unknown.
        dino: The same for DINO.
        difference: What it says of CLIP minus DINO; empty where it is unknown.
        mark: P, S or I; empty where all is unknown.
        factor: The factor of `evaluate` that measures the same thing.
        group: The benchmark group that measures the same thing.
        data_set: The benchmark set that measures the same thing.
    """

    name: str
    clip: str = ""
    dino: str = ""
    difference: str = ""
    mark: str = ""
    factor: str = ""
    group: str = ""
    data_set: str = ""


_PROBES = [
    PaperValue("ImageNet, linear probe", "65.8", "66.4", "\u22120.6", "S", factor="imagenet"),
    PaperValue("Stanford Cars, linear probe", "74.7", "54.1", "+20.6", "S", factor="cars"),
    PaperValue("CUB-200, linear probe", "52.3", "43.0", "+9.3", "S", factor="cub200"),
    PaperValue("ImageNetV2, linear probe", factor="imagenetv2"),
    PaperValue("CIFAR-10, linear probe", factor="cifar10"),
    PaperValue("CIFAR-10.1, linear probe", factor="cifar10.1"),
    PaperValue("CIFAR-100, linear probe", factor="cifar100"),
    PaperValue("Flowers-102, linear probe", factor="flowers102"),
]
_GROUPS = [
    PaperValue("VMCBench OCR", difference="+7.5", mark="P", group="ocr"),
    PaperValue("VMCBench general", difference="about equal", mark="P", group="general"),
    PaperValue("VMCBench reasoning", difference="about equal", mark="P", group="reasoning"),
    PaperValue("VMCBench document and chart", difference="about equal", mark="P", group="doc & chart"),
    PaperValue("VMCBench vision-centric sets", difference="DINO slightly ahead", mark="P"),
]
_SETS = [
    PaperValue(f"VMCBench {name}", data_set=name)
    for name in (
        *("SEEDBench", "MMStar", "A-OKVQA", "VizWiz", "MMVet", "VQAv2", "OKVQA", "MMMU", "MathVista", "ScienceQA"),
        *("RealWorldQA", "GQA", "MathVision", "TextVQA", "OCRVQA", "AI2D", "ChartQA", "DocVQA", "InfoVQA"),
        "TableVQABench",
    )
]
PAPER_VALUES = [*_PROBES, *_GROUPS, *_SETS]

PAPER_SETTINGS = [  # name, value, mark
    ("encoder", "ViT-B/16, 224 px", "P"),
    ("training data", "10M images of DataComp", "P"),
    ("length", "20 epochs, 200M samples seen", "S"),
    ("optimiser", "AdamW, learning rate 1e-3, cosine", "S"),
    ("batch, weight decay, warm-up", "", ""),
    ("DINO head and crops", "", ""),
    ("language model in LLaVA-1.5", "", ""),
    ("GPUs", "", ""),
]

CONFOUNDS = [
    (
        "Equal samples are not equal compute.",
        "At 224 px DINO with two global and eight local crops costs about 436 GFLOP per picture in training, CLIP with "
        "a ViT-B/16 about 123. The cost table below states both for this study, per sample and in total.",
    ),
    (
        "The objectives want different augmentation.",
        "CLIP trains on one nearly whole picture, DINO on many small, distorted ones. That difference belongs to the "
        "objective here, and can't be told apart from supervision.",
    ),
    (
        "The paper's data were chosen by CLIP.",
        "DataComp's best pool is itself filtered with CLIP scores, so it may suit language supervision better than "
        "another collection would.",
    ),
    (
        "One seed proves little.",
        "The intervals cover the choice of test items, not the luck of a training. Repeat the study with other seeds "
        "before relying on a small difference.",
    ),
    (
        "The language model's training may contain the test's subject.",
        "LLaVA's second stage holds OCR-VQA and TextVQA style data, so the paper's OCR sets are in-domain; the "
        "synthetic questions here are in-domain as well.",
    ),
    (
        "The effect may belong to small scale.",
        "Web-SSL (arXiv 2504.01017) finds DINO matching CLIP on OCR with 1 to 7 billion parameters and 2 billion "
        "pictures.",
    ),
]
