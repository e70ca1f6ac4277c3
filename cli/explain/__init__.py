"""`liveprofile why`."""
