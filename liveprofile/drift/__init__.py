"""Drift of the fraud model's inputs and scores from its training data (docs/drift.md).

`reference` holds the distributions of the training data, and the histograms of each hour's events.
`comparison` compares the two, and `alert` writes the alert. liveprofile/drift/store.py stores the
workers' counts and decisions; udfs/scoring/drift_monitor.py checks them in the scoring pipeline.
"""
