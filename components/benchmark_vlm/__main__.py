"""Command line of the stage benchmark_vlm."""

from components.benchmark_vlm.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
