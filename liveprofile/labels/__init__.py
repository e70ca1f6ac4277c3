"""Analyst labels: files, schema and topic."""
