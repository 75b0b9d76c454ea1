# M train, N test, D width, C classes, E joint embedding.
"""What is scored: for each factor of the tested set, its training and test pictures, checked for agreement."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from components.core.data import features
from components.core.models.encoder import device
from components.evaluate.params import Params
from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One factor: the pictures that have it.

    Attributes:
        factor: Its name in the tested set.
        names: The classes, C.
        train_MD, labels_M: Training features and their classes, on the device that computes.
        test_ND, labels_N, ids_N: Test features there; their classes and sample ids on the CPU.
        joint_NE, classes_CE: Test pictures and classes in the space shared with text; None where there is none.
    """

    factor: str
    names: Sequence[str]
    train_MD: Tensor
    labels_M: Tensor
    test_ND: Tensor
    labels_N: Tensor
    ids_N: Tensor
    joint_NE: Tensor | None
    classes_CE: Tensor | None


@dataclass(frozen=True)
class Sets:
    """The features that a run scores, and those that it trains on.

    Attributes:
        tested: Test split of `features`.
        trained: Train split of `train_features`, or else of `features`.
        factors: Class names of each tested factor.
        trained_factor: The trained set's name of each tested factor.
        classes: Class embeddings, [C, E], by factor.
    """

    tested: features.Features
    trained: features.Features
    factors: Mapping[str, Sequence[str]]
    trained_factor: Mapping[str, str]
    classes: Mapping[str, Tensor]

    def subjects(self) -> Iterator[Subject]:
        """Yields the factors one after the other.

        Raises:
            ValueError: Labels, classes or class embeddings don't agree.
        """
        for factor, names in self.factors.items():
            train_MD, labels_M, _ = _labelled(self.trained, self.trained_factor[factor], names)
            test_ND, labels_N, is_labelled_N = _labelled(self.tested, factor, names)
            classes_CE, joint_NE = self.classes.get(factor), self.tested.joint_NE
            if classes_CE is not None and len(classes_CE) != len(names):
                raise ValueError(f"factor '{factor}' has {len(names)} classes and {len(classes_CE)} class embeddings")
            is_zero_shot = classes_CE is not None and joint_NE is not None
            yield Subject(
                factor=factor,
                names=names,
                train_MD=train_MD,
                labels_M=labels_M.to(train_MD.device),
                test_ND=test_ND,
                labels_N=labels_N,
                ids_N=self.tested.ids_N[is_labelled_N],
                joint_NE=joint_NE[is_labelled_N] if is_zero_shot and joint_NE is not None else None,
                classes_CE=classes_CE if is_zero_shot else None,
            )


def read_sets(params: Params, stage: Stage) -> Sets:
    """Returns the features of both splits, on the device that computes.

    Raises:
        BadInput: The sets have other classes or come from other encoders, or features are of no use.
    """
    manifest = stage.inputs["features"]
    elsewhere = stage.inputs.get("train_features")
    names = _trained_factors(params, manifest, elsewhere) if elsewhere else {f: f for f in manifest.summary["factors"]}
    source = "train_features" if elsewhere else "features"
    trained = _read(params, stage, source, "train")
    if len(trained.ids_N) == 0:
        remedy = "give --train_features" if source == "features" else "give features of a set that has one"
        raise BadInput(f"--{source}={getattr(params, source)} has no training pictures: {remedy}.")
    return Sets(
        tested=_read(params, stage, "features", "test"),
        trained=trained,
        factors=manifest.summary["factors"],
        trained_factor=names,
        classes=features.read_classes(stage.folder("features"), manifest),
    )


def _read(params: Params, stage: Stage, name: str, split: Any) -> features.Features:
    try:
        found = features.read(stage.folder(name), stage.inputs[name], split, token=params.token)  # type: ignore[arg-type]
    except ValueError as error:
        raise BadInput(f"--{name}={getattr(params, name)} can't be scored: {error}.") from error
    return replace(found, rows_ND=found.rows_ND.to(device()))


def _trained_factors(params: Params, tested: Manifest, trained: Manifest) -> dict[str, str]:
    """Returns what the trained set calls each of the tested set's factors; sets of one factor may call it differently.

    Raises:
        BadInput: Another encoder, a factor that the trained set lacks, or other classes.
    """
    whose = f"--train_features={params.train_features}"
    for fact in ("arm", "replicate", "layer"):
        here, there = tested.summary[fact], trained.summary[fact]
        if here != there:
            raise BadInput(f"{whose} are of {fact} {there} and --features of {here}: give both of one encoder.")
    if tested.inputs.get("checkpoint") != trained.inputs.get("checkpoint"):
        raise BadInput(f"{whose} are of another checkpoint than --features: extract both with the same one.")
    factors, others = tested.summary["factors"], trained.summary["factors"]
    names = dict(zip(factors, others, strict=True)) if len(factors) == len(others) == 1 else {f: f for f in factors}
    for factor, name in names.items():
        if name not in others:
            raise BadInput(f"{whose} have no factor '{factor}', which --features have: give a set with the same ones.")
        difference = _first_difference(factors[factor], others[name])
        if difference:
            raise BadInput(f"{whose} have other classes of '{factor}' than --features: {difference}.")
    return names


def _first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """Returns in what two lists of classes differ first; empty where they are equal."""
    for number, (mine, other) in enumerate(zip(here, there, strict=False)):
        if mine != other:
            return f"class {number} is '{other}' there and '{mine}' here"
    return f"{len(there)} there and {len(here)} here" if len(here) != len(there) else ""


def _labelled(found: features.Features, factor: str, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns rows and classes of the pictures that have the factor, and which ones they are.

    Raises:
        ValueError: A class is not in the list.
    """
    labels_N = found.labels[factor]
    is_wrong_N = (labels_N < -1) | (labels_N >= len(names))
    if is_wrong_N.any():
        first = int(is_wrong_N.nonzero()[0, 0])
        raise ValueError(
            f"picture {int(found.ids_N[first])} has class {int(labels_N[first])} of factor '{factor}', which has "
            f"{len(names)} classes from 0 ({int(is_wrong_N.sum())} such pictures)"
        )
    is_labelled_N = labels_N >= 0
    rows_ND = found.rows_ND if bool(is_labelled_N.all()) else found.rows_ND[is_labelled_N.to(found.rows_ND.device)]
    return rows_ND, labels_N[is_labelled_N], is_labelled_N
