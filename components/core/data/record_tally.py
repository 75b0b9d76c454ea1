"""What became of a data set's records: which were left out or changed, counted by reason, with the first of each."""

from collections import Counter


class RecordTally:
    """Counts on the way from a file to what is trained on.

    Attributes:
        num_records: How many records were seen.
        left_out: Records that are not used, by reason.
        changed: Records that are used otherwise than they stand in the file, by reason.
        first: One sentence about the first record that was left out for each reason.
    """

    def __init__(self) -> None:
        self.num_records = 0
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def leave_out(self, reason: str, sentence: str) -> None:
        """Counts a record that is not used."""
        self.left_out[reason] += 1
        self.first.setdefault(reason, sentence)

    def refuse_above(self, share: float) -> None:
        """Returns if no more than this share of the records was left out.

        Raises:
            ValueError: More were; it says how many for which reason, and what is wrong with the first of each.
        """
        number = self.left_out.total()
        if number > share * self.num_records:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.left_out.most_common())
            first = " ".join(self.first[reason] for reason, _ in self.left_out.most_common())
            raise ValueError(
                f"{number} of the {self.num_records} records can't be used ({reasons}), more than the share of "
                f"{share:g} that may be left out: repair the data, or allow a larger share. {first}"
            )
