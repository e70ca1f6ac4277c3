"""Labelled events for the fraud model: of simulated shops, and of a shop's own labels."""
