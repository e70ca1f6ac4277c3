"""Training rows, examples and item side information of the user model."""
