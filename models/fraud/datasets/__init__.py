"""Labelled events for the fraud model: simulated shops, the handbook, own labels."""
