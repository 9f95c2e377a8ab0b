"""One file per format that a model can leave the house in."""
