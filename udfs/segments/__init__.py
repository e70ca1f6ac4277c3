"""Stores segment memberships, for the job and for sweeps."""
