"""The rows read so far from the source's beginning, and what is decided of them."""

import itertools

import pyarrow

from components.build_shards.decide import Decision, Rules, decide
from components.build_shards.work import Work


class Prefix:
    """The finished items from the first one on, without a gap.

    Args:
        work: Where the items' rows lie.
        rules: What decides which rows become samples.
    """

    def __init__(self, work: Work, rules: Rules) -> None:
        self.work, self.rules = work, rules
        self.parts: list[str] = []
        self._tables: list[pyarrow.Table] = []
        self._decision: Decision | None = None
        self._num_good = 0
        self._worth_deciding = rules.num_samples

    @property
    def first_rows(self) -> list[int]:
        """The number of each item's first row."""
        return [0, *itertools.accumulate(len(table) for table in self._tables)][:-1]

    def is_enough(self, done: set[int]) -> bool:
        """Returns whether the items in `done` give all the samples that are wanted, however many follow."""
        self.grow(done)
        if self._num_good < self._worth_deciding:
            return False
        num_missing = self.rules.num_samples - len(self.decision().kept)
        self._worth_deciding = self._num_good + num_missing
        return num_missing <= 0

    def grow(self, done: set[int]) -> None:
        """Takes in the rows of finished items that follow without a gap."""
        while len(self._tables) in done:
            table, part = self.work.rows(len(self._tables))
            self._num_good += sum(not reason for reason in table["reason"].to_pylist())
            self._tables.append(table)
            self._decision = None
            self.parts.append(part)

    def decision(self) -> Decision:
        """Returns which of the rows become samples."""
        if self._decision is None:
            self._decision = decide(pyarrow.concat_tables(self._tables), self.rules)
        return self._decision
