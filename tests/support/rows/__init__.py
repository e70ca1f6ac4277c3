"""Rows and records for tests."""
