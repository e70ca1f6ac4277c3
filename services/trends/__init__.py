"""Trends: events, users and amount by category, type, hour and day; what is expected and what not.

`update` counts the input topic up to the job's last checkpoint; everything else reads the counts
or the stored deltas.
"""
