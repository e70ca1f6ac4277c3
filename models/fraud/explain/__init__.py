"""Reasons for a fraud score."""
