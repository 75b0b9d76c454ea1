"""MATLAB files, in which some sets keep their labels."""

import io
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from components.build_shards.labelled_listing import Tree


def variable(tree: Tree, file: str, name: str) -> Any:
    """Returns a variable of a file, cells as arrays and structs as dicts.

    Raises:
        BadInput: There is no such file or variable, or it can't be read.
    """
    from scipy.io import loadmat  # half a second that only three of the sets need

    place = tree.find(file)
    data = tree.folder.read(place)
    try:
        found = loadmat(io.BytesIO(data), simplify_cells=True)
    except Exception as error:  # scipy raises whatever a broken file makes it raise
        raise tree.odd(f"has a {place} that can't be read as MATLAB's ({error})") from error
    if name not in found:
        raise tree.odd(f"has a {place} without `{name}`")
    return found[name]


def numbers_of(tree: Tree, file: str, name: str) -> NDArray[numpy.int64]:
    """Returns a variable that is a row of whole numbers."""
    found = numpy.atleast_1d(numpy.asarray(variable(tree, file, name)))
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise tree.odd(f"has a {file} whose `{name}` isn't a row of whole numbers")
    return found.astype(numpy.int64)


def records_of(tree: Tree, file: str, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a variable that is a row of structs with these fields."""
    found = variable(tree, file, name)
    records = [found] if isinstance(found, dict) else list(numpy.atleast_1d(found))
    for record in records:
        missing = [field for field in fields if not isinstance(record, dict) or field not in record]
        if missing:
            raise tree.odd(f"has a {file} whose `{name}` lacks the field {missing[0]}")
    return records
