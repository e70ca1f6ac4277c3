"""Experiments: evaluation reports, walk-forward and cold start."""
