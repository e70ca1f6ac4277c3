"""Training rows, examples and moments of the user model."""
