"""Fitting the user model."""
