"""Checks of the user model against published figures, on data sets that a reader downloads."""
