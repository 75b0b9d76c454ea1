"""Stands in for a stage in a gang: joins the ranks, and says which one it is and what it was given."""

import json
import os
import sys

from components.core.training import distributed

if __name__ == "__main__":
    place = distributed.start("gloo", timeout_s=60)
    distributed.wait_for_all()
    print(json.dumps([place.rank, place.size, os.environ["POD"], sys.argv[1:]]), flush=True)
    distributed.end()
