"""`liveprofile doctor`: facts about the services, and checks of the facts."""
