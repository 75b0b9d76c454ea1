"""The test features of several encoders, checked to be of the same pictures and of the same replicates."""

# N pictures, D features

import dataclasses

import numpy as np

from components.core.data import features
from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage
from components.runtime.storage import Folder

Encoder = tuple[str, int]  # arm, replicate


@dataclasses.dataclass(frozen=True)
class Encoders:
    """What is compared.

    Attributes:
        arms: In the order in which they were given.
        replicates: Which repetitions there are of every arm, ascending.
        ids_N: Sample ids, ascending.
        labels: Class index per factor [N], -1 for none.
        classes: Names of the classes per factor.
        rows: float32 CLS features [N, D] per encoder.
        num_unusable: Pictures left out because an encoder has no finite, non-zero feature for them.
    """

    arms: list[str]
    replicates: list[int]
    ids_N: np.ndarray
    labels: dict[str, np.ndarray]
    classes: dict[str, list[str]]
    rows: dict[Encoder, np.ndarray]
    num_unusable: int

    def keep(self, rows_N: np.ndarray) -> "Encoders":
        """Returns the pictures at these rows, or where this mask is true."""
        return dataclasses.replace(
            self,
            ids_N=self.ids_N[rows_N],
            labels={factor: labels_N[rows_N] for factor, labels_N in self.labels.items()},
            rows={encoder: rows_ND[rows_N] for encoder, rows_ND in self.rows.items()},
        )

    def first(self) -> dict[str, np.ndarray]:
        """Returns the features of each arm's first replicate."""
        return {arm: self.rows[arm, self.replicates[0]] for arm in self.arms}

    def of_arm(self, arm: str) -> list[np.ndarray]:
        """Returns the features of an arm's replicates."""
        return [self.rows[arm, replicate] for replicate in self.replicates]


def read_encoders(stage: Stage, max_pictures: int, seed: int) -> Encoders:
    """Returns the test features of all encoders, for at most `max_pictures` pictures drawn at random.

    Only those pictures' features stay in memory: 4 bytes per picture, feature and encoder.

    Raises:
        BadInput: Fewer than two arms, an encoder twice, an arm without a replicate that another has, other pictures
            or shards, no test split, or too many unusable features.
    """
    manifests = stage.input_lists["features"]
    arms, replicates = _design(manifests)
    _check_pictures(manifests, stage.inputs["shards"])
    drawn_N = usable_N = np.zeros(0, np.int64)
    drawn: dict[Encoder, features.Features] = {}
    for manifest, folder in zip(manifests, stage.folders("features"), strict=True):
        found = _read_test(folder, manifest)
        ids_N = found.ids_N.numpy()
        if not drawn:
            drawn_N, usable_N = np.random.default_rng(seed).permutation(ids_N)[:max_pictures], ids_N
            num_test = len(ids_N) + found.num_unusable
        usable_N = np.intersect1d(usable_N, ids_N)
        drawn[_encoder(manifest)] = _at(found, drawn_N)
    kept_N = np.intersect1d(drawn_N, usable_N)
    kept = {encoder: _at(found, kept_N) for encoder, found in drawn.items()}
    labels = kept[arms[0], replicates[0]].labels
    return Encoders(
        arms=arms,
        replicates=replicates,
        ids_N=kept_N,
        labels={factor: labels_N.numpy() for factor, labels_N in labels.items()},
        classes=manifests[0].summary["factors"],
        rows={encoder: found.rows_ND.numpy() for encoder, found in kept.items()},
        num_unusable=num_test - len(usable_N),
    )


def _read_test(folder: Folder, manifest: Manifest) -> features.Features:
    try:
        found = features.read(folder, manifest, "test")
    except ValueError as error:
        raise BadInput(f"--features: {error}.") from error
    if not len(found.ids_N):
        raise BadInput(f"--features: {folder.uri} has no test split: build labelled shards with one.")
    return dataclasses.replace(found, joint_NE=None)


def _at(found: features.Features, ids_N: np.ndarray) -> features.Features:
    """Returns the features of these pictures only."""
    rows_N = np.flatnonzero(np.isin(found.ids_N.numpy(), ids_N))
    if len(rows_N) == len(found.ids_N):
        return found  # no copy of what may be large
    return dataclasses.replace(
        found,
        ids_N=found.ids_N[rows_N],
        rows_ND=found.rows_ND[rows_N],
        labels={factor: labels_N[rows_N] for factor, labels_N in found.labels.items()},
    )


def _design(manifests: list[Manifest]) -> tuple[list[str], list[int]]:
    """Returns the arms and their replicates."""
    encoders = [_encoder(manifest) for manifest in manifests]
    arms = list(dict.fromkeys(arm for arm, _ in encoders))
    names = ", ".join(f"{arm} ({replicate})" for arm, replicate in encoders)
    if len(set(encoders)) != len(encoders) or len(arms) < 2:
        raise BadInput(f"--features holds {names}: expected two or more different arms, each replicate once.")
    replicates = {arm: sorted(r for name, r in encoders if name == arm) for arm in arms}
    if len({tuple(of_arm) for of_arm in replicates.values()}) > 1:
        raise BadInput(f"--features holds {names}: expected the same replicates of every arm; give those of all arms.")
    return arms, replicates[arms[0]]


def _encoder(manifest: Manifest) -> Encoder:
    return manifest.summary["arm"], manifest.summary["replicate"]


def _check_pictures(manifests: list[Manifest], shards: Manifest) -> None:
    first = manifests[0]
    for manifest in manifests:
        arm = manifest.summary["arm"]
        if manifest.summary["shards"] != shards.digest:
            raise BadInput(
                f"--shards holds other shards than those that the features of {arm} were made from: give the shards "
                "that extract_features read."
            )
        if manifest.summary["ids"] != first.summary["ids"]:
            raise BadInput(
                f"--features: the test pictures of {arm} are not those of {first.summary['arm']}: extract all "
                "features from the same shards."
            )
