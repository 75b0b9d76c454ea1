"""Command line of the stage train_vlm."""

from components.train_vlm.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
