"""Which columns of a parquet file are the picture, its address, its caption and its class: the schema says."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
from pyarrow import types

from components.build_shards.source import Raw
from components.runtime.errors import BadInput

IMAGE_NAMES = ("image", "img", "jpg", "png", "webp")
URL_NAMES = ("url", "image_url")
CAPTION_NAMES = ("caption", "text", "txt")
CATEGORY_NAMES = ("label", "category", "class", "fine_label")  # the last is CIFAR-100's, beside its coarse one
SHA256_NAMES = ("sha256",)
KEY_NAMES = ("uid",)
UNLABELLED = -1  # Hugging Face's label of rows that have none

Cells = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that are read, empty where the file has no such column; `image` or `url` is there.

    Attributes:
        image: Encoded pictures: binary, or Hugging Face's struct of `bytes` and `path`.
        url: Addresses of pictures; not used where there is `image`.
        caption: Text, or a list of texts, of which the first is the caption.
        category: Names of classes, or their numbers.
        sha256: Of the downloaded file, in hexadecimal (DataComp).
        key: Identifier of the sample (DataComp).
        class_names: Names for the numbers; empty: a number is its own name.
    """

    image: str
    url: str
    caption: str
    category: str
    sha256: str
    key: str
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, schema: pyarrow.Schema, address: str) -> "Columns":
        """Returns the columns of the file at an address.

        Raises:
            BadInput: It has neither pictures nor addresses, or several columns could be the class.
        """
        class_names = _class_names(schema)
        columns = cls(
            image=_find(schema, IMAGE_NAMES, _is_image),
            url=_find(schema, URL_NAMES, _is_text),
            caption=_find(schema, CAPTION_NAMES, lambda kind: _is_text(kind) or _is_list_of_text(kind)),
            category=_category(schema, class_names, address),
            sha256=_find(schema, SHA256_NAMES, _is_text),
            key=_find(schema, KEY_NAMES, _is_text),
            class_names=(),
        )
        if not columns.image and not columns.url:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise BadInput(
                f"{address} has neither pictures nor URLs: expected a binary column (or struct with `bytes`) called "
                f"{' or '.join(IMAGE_NAMES)}, or a text column called {' or '.join(URL_NAMES)}; it has {found}."
            )
        return cls(**vars(columns) | {"class_names": class_names.get(columns.category, ())})

    def names(self) -> list[str]:
        """Returns the columns to read."""
        texts = [self.caption, self.category, self.key]
        return [name for name in [*([self.image] if self.image else [self.url, self.sha256]), *texts] if name]

    def raw(self, name: str, cells: Cells) -> Raw:
        """Returns a row as an input, its picture still to be downloaded where there is only an address."""
        image = cells.get(self.image)
        caption = cells.get(self.caption)
        texts = caption if isinstance(caption, list) else [caption]
        category = self._class_of(cells.get(self.category))
        if category is None:
            return Raw(name, reject="bad_label")
        return Raw(
            name=name,
            image=(image.get("bytes") if isinstance(image, dict) else image) or b"",
            caption=next((text for text in texts if text is not None), None),
            category=category,
            url=cells.get(self.url) or "",
            key=cells.get(self.key) or "",
        )

    def _class_of(self, label: Any) -> str | None:
        """Returns the name of a label, empty for a row without one; None for a number that has no name."""
        if label is None or label == UNLABELLED:
            return ""
        if not self.class_names or not isinstance(label, int):
            return str(label)
        return self.class_names[label] if 0 <= label < len(self.class_names) else None


def _find(schema: pyarrow.Schema, names: Sequence[str], fits: Callable[[pyarrow.DataType], bool]) -> str:
    """Returns the first column, by the order of `names`, of that name in any case and of a type that fits."""
    by_name = {field.name.lower(): field for field in reversed(list(schema)) if fits(_content(field.type))}
    return next((by_name[name].name for name in names if name in by_name), "")


def _category(schema: pyarrow.Schema, class_names: Mapping[str, tuple[str, ...]], address: str) -> str:
    """Returns the column of classes: the one of a usual name, else the only one that Hugging Face calls a label."""
    found = _find(schema, CATEGORY_NAMES, lambda kind: _is_text(kind) or types.is_integer(kind))
    labels = [field.name for field in schema if field.name in class_names]
    if not found and len(labels) > 1:
        raise BadInput(
            f"{address} has several columns of classes ({', '.join(labels)}): rename the one that is meant to `label`."
        )
    return found or "".join(labels)


def _class_names(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """Returns the class names of each column that Hugging Face's metadata describe as a ClassLabel."""
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features") or {}
    return {
        name: tuple(feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _content(kind: pyarrow.DataType) -> pyarrow.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: pyarrow.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_list_of_text(kind: pyarrow.DataType) -> bool:
    return (types.is_list(kind) or types.is_large_list(kind)) and _is_text(kind.value_type)


def _is_image(kind: pyarrow.DataType) -> bool:
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
