"""What is known of the paper's own results, each with where it is known from; nothing is filled in by guess.

Liu, Zhang, Ghosh, Schmidt, Yeung-Levy: "Data or Language Supervision: What Makes CLIP Better than DINO?", Findings of
EMNLP 2025 (arXiv 2510.11835). P: stated by the authors; S: stated by a secondary source; I: inferred.
"""

import dataclasses

UNKNOWN = "not published here"
MARKS = {"P": "stated by the authors", "S": "stated by a secondary source", "I": "inferred"}


@dataclasses.dataclass(frozen=True)
class PaperValue:
    """One measurement of the paper, in per cent.

    Attributes:
        name: What was measured.
        clip: The paper's value for CLIP; None where it is unknown.
        dino: The same for DINO.
        difference: What it says of CLIP minus DINO, in points; None where it says no number.
        words: What it says of the difference instead of a number.
        mark: P, S or I; empty where all is unknown.
        kind: Which of our numbers measures the same thing: `probe` or `vmc`; empty: none.
        ours: The name that it has here.
    """

    name: str
    clip: float | None = None
    dino: float | None = None
    difference: float | None = None
    words: str = ""
    mark: str = ""
    kind: str = ""
    ours: str = ""


_PROBES = [
    PaperValue("ImageNet, linear probe", 65.8, 66.4, -0.6, mark="S", kind="probe", ours="imagenet"),
    PaperValue("Stanford Cars, linear probe", 74.7, 54.1, 20.6, mark="S", kind="probe", ours="cars"),
    PaperValue("CUB-200, linear probe", 52.3, 43.0, 9.3, mark="S", kind="probe", ours="cub200"),
    *(
        PaperValue(f"{name}, linear probe", kind="probe", ours=ours)
        for name, ours in (
            *(("ImageNetV2", "imagenetv2"), ("CIFAR-10", "cifar10"), ("CIFAR-10.1", "cifar10.1")),
            *(("CIFAR-100", "cifar100"), ("Flowers-102", "flowers102")),
        )
    ),
]
_GROUPS = [
    PaperValue("VMCBench OCR", difference=7.5, mark="P", kind="vmc", ours="ocr"),
    PaperValue("VMCBench general", words="about equal", mark="P", kind="vmc", ours="general"),
    PaperValue("VMCBench reasoning", words="about equal", mark="P", kind="vmc", ours="reasoning"),
    PaperValue("VMCBench document and chart", words="about equal", mark="P", kind="vmc", ours="doc & chart"),
    PaperValue("VMCBench vision-centric sets", words="DINO slightly ahead", mark="P"),
]
PAPER_VALUES = [*_PROBES, *_GROUPS, PaperValue("VMCBench, each of its 20 sets")]

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

SEEDS = "One seed proves little."
ONE_SEED = (
    "The intervals cover the choice of test items, not the luck of a training: each arm was trained once. Repeat the "
    "study with more replicates before relying on a small difference."
)
SEVERAL_SEEDS = (
    "Each arm was trained {} times here, from other weights and in another order, on the same data. Intervals take the "
    "spread over these trainings in, and widen with it; a few trainings still say little about a small difference."
)
CONFOUNDS = [
    (
        "Equal samples are not equal compute.",
        "At 224 px DINO with two global and eight local crops costs about 436 GFLOP per picture in training, CLIP with "
        "a ViT-B/16 about 123 (406 and 116 where the last block computes CLS alone, as here). The cost table states "
        "both for this study, per sample and in total.",
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
    (SEEDS, ""),
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


def confounds(num_replicates: int) -> list[tuple[str, str]]:
    """Returns what the study can't tell apart, for as many replicates as it has."""
    seeds = ONE_SEED if num_replicates == 1 else SEVERAL_SEEDS.format(num_replicates)
    return [(heading, seeds if heading == SEEDS else text) for heading, text in CONFOUNDS]
