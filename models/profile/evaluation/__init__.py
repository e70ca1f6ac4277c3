"""Evaluation of the user model: metrics, baseline models and bootstrap intervals."""
