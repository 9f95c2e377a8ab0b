"""Orchestration: Prefect runs DVC, DVC runs a stage. Nothing here knows what a token is."""
