"""Command line of the stage build_shards."""

from components.build_shards.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
