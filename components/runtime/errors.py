"""How a stage ends: one exit code for each outcome, one exception for each that is not success."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 3


class BadInput(ValueError):
    """The user can mend this: the text names the parameter, its value, what was expected and the remedy.

    Attributes:
        problems: One sentence each; a stage reports all of them at once.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StageFailure(RuntimeError):
    """The stage can't go on for a reason that it understands; the text says why and what helps."""


class Preempted(RuntimeError):
    """The stage was asked to stop, has saved its state, and continues when it is run again."""
