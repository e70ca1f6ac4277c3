"""Simulated shops: their events as the fraud model reads them, without Flink."""
