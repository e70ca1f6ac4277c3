"""Experiments that train and evaluate: reports, walk-forward, cold start."""
