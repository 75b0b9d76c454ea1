"""The attempts of a gang that have ended, kept in storage: a launcher that starts anew knows what is used up."""

import dataclasses
import re

from components.launch.verdict import Ending
from components.runtime.storage import Folder

ATTEMPT = "ceteris.io/attempt"  # annotation of a job: its attempt's number
RECORD = re.compile(r"(\d+)/end\.json")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One attempt that has ended.

    Attributes:
        number: From 1 on, over all runs that wrote to this address.
        job: The job's name, which holds the run's id: another run has budgets of its own.
        uid: The job's uid, so that no attempt counts twice.
        ending: How it ended.
        text: Why, in a sentence.
        ended_at: Seconds since 1970.
        ran_s: How long it ran.
    """

    number: int
    job: str
    uid: str
    ending: Ending
    text: str
    ended_at: float
    ran_s: float


def read_attempts(logs: Folder) -> list[Attempt]:
    """Returns the attempts of every run that wrote here, in order."""
    numbers = sorted(int(found[1]) for name in logs.names() if (found := RECORD.fullmatch(name)))
    records = [logs.read_json(f"{number}/end.json") for number in numbers]
    return [Attempt(**record | {"ending": Ending(record["ending"])}) for record in records]


def write_attempt(logs: Folder, attempt: Attempt) -> None:
    """Keeps how an attempt ended; the same attempt twice is one."""
    logs.write_json(f"{attempt.number}/end.json", dataclasses.asdict(attempt))
