"""Command line of the stage train_vlm."""

from components.runtime.stage import main
from components.train_vlm.params import Params

if __name__ == "__main__":
    main(Params)
