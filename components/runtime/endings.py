"""How a program of ours ends: whatever happens in it is one sentence in the log and one of the codes in `errors`."""

import traceback
from collections.abc import Callable

from components.runtime import errors
from components.runtime.errors import BadInput, Preempted, StageFailure
from components.runtime.logs import Log


def exit_code(log: Log, work: Callable[[], int | None]) -> int:
    """Does the work and returns its exit code; None is success.

    Args:
        log: Where it is said why the work did not succeed.
        work: What is done.
    """
    try:
        return work() or errors.EXIT_DONE
    except BadInput as error:
        for problem in error.problems:
            log.event("bad_input", problem=problem)
        return errors.EXIT_BAD_INPUT
    except (Preempted, KeyboardInterrupt) as error:
        log.event("preempted", reason=str(error) or "interrupted", remedy="run the same command again to continue")
        return errors.EXIT_PREEMPTED
    except StageFailure as error:
        log.event("failed", problem=str(error))
        return errors.EXIT_FAILED
    except Exception as error:
        log.event("failed", problem=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        return errors.EXIT_FAILED


def status(code: int) -> str:
    """Returns MLflow's word for a run that ended with this exit code."""
    return {errors.EXIT_DONE: "FINISHED", errors.EXIT_PREEMPTED: "KILLED"}.get(code, "FAILED")
