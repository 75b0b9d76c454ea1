"""Command line of the stage report."""

from components.report.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
