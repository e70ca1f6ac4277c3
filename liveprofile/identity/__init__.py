"""Ids that are one person: what merges say at a time, and the topic's records."""
