"""Command line of the stage analyze_embeddings."""

from components.analyze_embeddings.params import Params
from components.runtime.stage import main

if __name__ == "__main__":
    main(Params)
