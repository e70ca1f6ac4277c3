"""Features of windows and of scored events."""
