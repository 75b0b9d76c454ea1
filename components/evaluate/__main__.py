"""Command line of the stage evaluate."""

from components.evaluate.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
