"""Corrections: late events that come into their windows after all (docs/operate.md)."""
