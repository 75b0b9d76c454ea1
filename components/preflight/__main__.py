"""Command line of the stage preflight."""

from components.preflight.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
