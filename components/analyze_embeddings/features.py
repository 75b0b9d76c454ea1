"""The test features of several encoders over the same pictures, checked to be over the same pictures."""

# N pictures, D features

import dataclasses

import numpy as np
import safetensors.numpy

from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.storage import Folder

FEATURES_NAME = "features.safetensors"
MAX_UNUSABLE_SHARE = 0.001  # FAULTS.md 65


@dataclasses.dataclass(frozen=True)
class TestFeatures:
    """What is compared.

    Attributes:
        ids_N: Sample ids, ascending.
        labels: Class index per factor [N], -1 for none.
        cls: The CLS features [N, D] per arm, in the order of the arms.
        num_unusable: Pictures that were left out because an arm has no finite, non-zero feature for them.
    """

    ids_N: np.ndarray
    labels: dict[str, np.ndarray]
    cls: dict[str, np.ndarray]
    num_unusable: int

    def keep(self, rows_N: np.ndarray) -> "TestFeatures":
        """Returns the pictures at these rows or where this mask is true."""
        return dataclasses.replace(
            self,
            ids_N=self.ids_N[rows_N],
            labels={factor: labels_N[rows_N] for factor, labels_N in self.labels.items()},
            cls={arm: cls_ND[rows_N] for arm, cls_ND in self.cls.items()},
        )


def read_features(manifests: list[Manifest], folders: list[Folder]) -> TestFeatures:
    """Returns the test features of all arms.

    Raises:
        BadInput: Fewer than two arms, an arm twice, no test split, other pictures, or too many unusable features.
    """
    arms = [manifest.summary["arm"] for manifest in manifests]
    if len(set(arms)) != len(arms) or len(arms) < 2:
        raise BadInput(f"--features holds the arms {', '.join(arms)}: expected two or more different ones.")
    tensors = [safetensors.numpy.load(folder.read(FEATURES_NAME)) for folder in folders]
    for arm, folder, found in zip(arms, folders, tensors, strict=True):
        if "test/cls" not in found or not len(found["test/ids"]):
            raise BadInput(f"--features: {folder.uri} ({arm}) has no test split: build labelled shards with one.")
        if not np.array_equal(found["test/ids"], tensors[0]["test/ids"]):
            raise BadInput(
                f"--features: the test pictures of {arm} are not those of {arms[0]}: extract all arms' features "
                "from the same shards."
            )
    first = tensors[0]
    prefix = "test/labels/"
    features = TestFeatures(
        ids_N=first["test/ids"],
        labels={name.removeprefix(prefix): first[name] for name in sorted(first) if name.startswith(prefix)},
        cls={arm: found["test/cls"].astype(np.float32) for arm, found in zip(arms, tensors, strict=True)},
        num_unusable=0,
    )
    return _drop_unusable(features)


def _drop_unusable(features: TestFeatures) -> TestFeatures:
    is_usable_N = np.ones(len(features.ids_N), bool)
    for cls_ND in features.cls.values():
        is_usable_N &= np.isfinite(cls_ND).all(axis=1) & (np.abs(cls_ND).max(axis=1) > 0)
    num_unusable = int((~is_usable_N).sum())
    if num_unusable > MAX_UNUSABLE_SHARE * len(is_usable_N):
        raise BadInput(
            f"--features: {num_unusable} of {len(is_usable_N)} features are zero or not finite, more than "
            f"{MAX_UNUSABLE_SHARE:.1%}: look at the training of these encoders."
        )
    return dataclasses.replace(features.keep(is_usable_N), num_unusable=num_unusable)
