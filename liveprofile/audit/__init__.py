"""The audit: what became of every record of the input topic."""
