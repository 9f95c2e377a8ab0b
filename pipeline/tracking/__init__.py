"""MLflow's only home. A stage writes its record to a spool on disk; delivery carries it to MLflow, now or later."""
