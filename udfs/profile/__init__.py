"""The profile pipeline in a Python worker."""
