"""Ids that are one person: the job follows merges, and gives each event to its person."""
