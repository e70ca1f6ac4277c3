"""Baseline models of next baskets, tuned on validation like the user model."""
