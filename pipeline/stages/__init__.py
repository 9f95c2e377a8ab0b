"""One module per stage of dvc.yaml, each with READS, WRITES, Params and run."""
