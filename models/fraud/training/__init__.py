"""Fitting, calibrating and evaluating the fraud model."""
