"""The questions of parquet files, and their pictures when they are needed: never more than a few rows at once."""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

from components.core.evaluation.multiple_choice import COLUMNS, GROUP_OF_SET, Question, image_bytes, read_question
from components.runtime.errors import BadInput
from components.runtime.storage import Folder, open_folder

SUFFIX = ".parquet"
SPLIT = re.compile(r"(?<![a-z])(dev|test)(?![a-z])")
ROWS_AT_ONCE = 64
BUFFER_BYTES = 1 << 20  # a column comes in such pieces; without them that of a whole row group would be in memory


@dataclass(frozen=True)
class Table:
    """One parquet file of a benchmark, and which split its name says."""

    folder: Folder
    name: str
    split: str

    def open(self, groups: Sequence[int] | None, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yields the rows of some row groups, or of all.

        Raises:
            ValueError: It is no parquet file, lacks a column or is damaged.
        """
        with self.folder.open(self.name) as opened:
            try:
                file = pyarrow.parquet.ParquetFile(opened, buffer_size=BUFFER_BYTES, pre_buffer=False)
                missing = [name for name in columns if name not in file.schema_arrow.names]
                if missing:
                    raise ValueError(f"it lacks the columns {', '.join(missing)}: expected {', '.join(COLUMNS)}")
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=list(columns)):
                    yield from batch.to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"it is no parquet file, or a damaged one ({error})") from error

    def group_sizes(self) -> list[int]:
        """Returns the number of rows of each row group."""
        with self.folder.open(self.name) as opened:
            metadata = pyarrow.parquet.read_metadata(opened)
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


class QuestionFiles:
    """The rows of some tables, numbered through in their order."""

    def __init__(self, tables: Sequence[Table], what: str) -> None:
        self._tables, self.what = tables, what
        self._spans: list[tuple[Table, int, range]] = []

    def questions(self, groups: Mapping[str, str], other_group: bool) -> list[Question]:
        """Returns all questions; where the tables are of several splits, their names begin with the split's.

        Args:
            groups: The group of each set that is no set of VMCBench.
            other_group: Whether other sets belong to the group `other`.

        Raises:
            BadInput: There is none, or one that can't be used.
        """
        known, is_split = GROUP_OF_SET | dict(groups), len({table.split for table in self._tables}) > 1
        questions: dict[str, Question] = {}
        for table in self._tables:
            with self._said(table):
                for row in table.open(None, COLUMNS):
                    if is_split and table.split and row["index"] is not None:
                        row["index"] = f"{table.split}-{row['index']}"
                    question = read_question(row, known, table.split, other_group)
                    if question.index in questions:
                        raise ValueError(f"the index {question.index} occurs twice")
                    questions[question.index] = question
            first = sum(len(span[2]) for span in self._spans)
            for number, size in enumerate(table.group_sizes()):
                self._spans.append((table, number, range(first, first + size)))
                first += size
        if not questions:
            raise BadInput(f"{self.what}: the benchmark has no questions: give a table with rows.")
        return list(questions.values())

    def pictures(self, numbers: Collection[int]) -> dict[int, bytes]:
        """Returns the encoded pictures of some questions, by the number of the question."""
        found: dict[int, bytes] = {}
        wanted = set(numbers)
        for table, group, rows in self._spans:
            if wanted.isdisjoint(rows):
                continue
            with self._said(table):
                for number, row in zip(rows, table.open([group], ["image"]), strict=True):
                    if number in wanted:
                        found[number] = image_bytes(row["image"], str(number))
        return found

    @contextlib.contextmanager
    def _said(self, table: Table) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise BadInput(f"{self.what}: {table.name}: {error}: mend the file or give another one.") from error


def published_tables(uri: str) -> list[Table]:
    """Returns the parquet file at an address, or those in the folder there, in the order of their names.

    Raises:
        BadInput: There is none.
    """
    head, slash, last = uri.rpartition("/")
    if last.endswith(SUFFIX):
        folder = open_folder(head + slash or ".")
        names = [last] if folder.exists(last) else []
    else:
        folder = open_folder(uri)
        names = [name for name in folder.names() if name.endswith(SUFFIX)]
    if not names:
        raise BadInput(f"--questions={uri} holds no parquet file: give one, or a folder of files ending in {SUFFIX}.")
    return [Table(folder, name, _split(name)) for name in names]


def _split(name: str) -> str:
    """Returns the split that a file's name says last, as in data/test-00000-of-00002.parquet; else nothing."""
    found = SPLIT.findall(name.lower())
    return found[-1] if found else ""
