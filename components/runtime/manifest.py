"""Manifests: the small JSON by which stages talk. Its presence means that the stage is done."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from components.runtime.errors import BadInput
from components.runtime.storage import Folder

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What was made, from what, with which parameters.

    Attributes:
        kind: What it describes, such as `ShardsManifest`.
        stage: The stage that wrote it.
        params: The knobs that decide the result, by name.
        inputs: The digest of each input's manifest (joined by commas where there are several), by field.
        files: sha256 and size in bytes of each file beside the manifest, by name.
        counts: How many of what.
        summary: What the next stages and the report need; deterministic.
        cost: Seconds and the like; they differ from run to run, and are no part of the digest.
        code: Commit and image that made it; no part of the digest.
    """

    kind: str
    stage: str
    params: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]
    counts: dict[str, Any]
    summary: dict[str, Any]
    cost: dict[str, Any]
    code: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """The sha256 of everything but cost and code, so equal for equal results wherever they lie."""
        content = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("cost", "code")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Commits a stage's result; everything that the manifest names is in `folder` already."""
    folder.write_json(MANIFEST_NAME, dataclasses.asdict(manifest) | {"digest": manifest.digest})


def read_manifest(folder: Folder) -> Manifest | None:
    """Returns the manifest in `folder`, or None when the stage has not finished there.

    Raises:
        BadInput: The file is damaged, or of a schema that this version doesn't know.
    """
    try:
        data = folder.read_json(MANIFEST_NAME)
        written_digest = data.pop("digest")
        manifest = Manifest(**data)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{folder.uri}/{MANIFEST_NAME} is damaged ({error}): delete it and run its stage.") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise BadInput(
            f"{folder.uri}/{MANIFEST_NAME} has schema {manifest.schema_version}, this version reads "
            f"{SCHEMA_VERSION}: use the version of Ceteris that wrote it, or run its stage again."
        )
    if manifest.digest != written_digest:
        raise BadInput(f"{folder.uri}/{MANIFEST_NAME} was changed by hand: delete it and run its stage again.")
    return manifest


def describe_file(folder: Folder, name: str) -> dict[str, Any]:
    """Returns the sha256 and size in bytes of one file."""
    data = folder.read(name)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def code_version() -> dict[str, str]:
    """Returns the commit and image that are running; an image carries both as environment variables."""
    return {
        "commit": os.environ.get("CETERIS_COMMIT") or _checked_out_commit(Path(__file__).parents[2] / ".git"),
        "image": os.environ.get("CETERIS_IMAGE", ""),
    }


def _checked_out_commit(git: Path) -> str:
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (git / reference).exists():
            return (git / reference).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {reference}")), "")
    except OSError:
        return ""
