"""Segments: definitions, evaluation, membership changes and their events."""
