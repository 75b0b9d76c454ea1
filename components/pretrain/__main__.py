"""Command line of the stage pretrain."""

from components.pretrain.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
