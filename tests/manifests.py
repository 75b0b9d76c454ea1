"""Manifests over files that a test has written."""

from typing import Any

from components.runtime.manifest import Manifest, describe_file, write_manifest
from components.runtime.storage import LocalFolder


def commit(folder: LocalFolder, kind: str, stage: str, **parts: Any) -> Manifest:
    """Writes a manifest over all files of a folder; `parts` are those of its fields that aren't empty."""
    files = {name: describe_file(folder, name) for name in folder.names() if name != "manifest.json"}
    empty: dict[str, Any] = {name: {} for name in ("params", "inputs", "counts", "summary", "cost", "code")}
    manifest = Manifest(kind=kind, stage=stage, files=files, **empty | parts)
    write_manifest(folder, manifest)
    return manifest
