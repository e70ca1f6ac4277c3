"""Drift of what the fraud model sees: does it still look like the data that it was trained on?

docs/drift.md. `reference` is what is usual, `histograms` count what comes, `judge` compares the
two, `store` keeps what all workers counted and decided, `monitor` drives them from the event lane.
"""
