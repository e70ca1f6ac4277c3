"""Text formats that Flink SQL and Python exchange; each writer next to its parser."""
