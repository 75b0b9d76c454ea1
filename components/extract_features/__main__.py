"""Command line of the stage extract_features."""

from components.extract_features.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
