"""`liveprofile correct`."""
