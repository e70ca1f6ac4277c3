"""Churn, spend and days to the next purchase as curves of the time after a window."""
