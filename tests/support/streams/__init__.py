"""Streams of events for tests: strategies, seeded streams, simulated shops."""
