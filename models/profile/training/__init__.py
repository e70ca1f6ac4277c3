"""Training of the user model."""
