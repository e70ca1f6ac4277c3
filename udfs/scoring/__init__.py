"""The scoring pipeline in a Python worker."""
