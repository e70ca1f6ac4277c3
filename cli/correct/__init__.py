"""`liveprofile events recompute-late`."""
