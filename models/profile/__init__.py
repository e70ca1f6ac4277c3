"""The user model as it is served."""
