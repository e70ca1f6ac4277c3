"""`liveprofile profile explain`."""
