"""One measurement in a process of its own: `python -m tests.bench.fresh module:function arguments`.

The function prepares, and returns the work; only the work is measured, with the processes that it starts. Nothing
beyond the standard library is imported here, because peers' own Python runs it too.
"""

import importlib
import json
import resource
import sys
import time


def cpu_seconds() -> float:
    """Returns the CPU seconds of this process, its threads, and those of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Prints what the work cost and what it returned, as the last line of the standard output."""
    module, _, function = sys.argv[1].partition(":")
    work = getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))
    cpu_s, begin = cpu_seconds(), time.perf_counter()
    found = work()
    wall_s = time.perf_counter() - begin
    print("\n" + json.dumps([cpu_seconds() - cpu_s, wall_s, found]))


if __name__ == "__main__":
    main()
