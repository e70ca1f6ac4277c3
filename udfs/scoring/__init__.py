"""The scoring pipeline in a Python worker: events in, fraud scores, flags and alerts out."""
