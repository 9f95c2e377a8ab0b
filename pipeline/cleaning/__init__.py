"""What may happen to a record before training: one file per rule; a rule that drops a record answers with a reason."""
