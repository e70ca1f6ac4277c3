"""Labelled events for the fraud model, of a shop's own labels."""
