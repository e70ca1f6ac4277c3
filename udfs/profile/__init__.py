"""The profile pipeline in a Python worker: windows in, profiles, flags and alerts out."""
