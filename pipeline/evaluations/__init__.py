"""One file per evaluation: a model and held-out data go in, figures with what they were measured on come out."""
