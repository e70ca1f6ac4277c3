"""Training rows, training batches and item side information of the user model."""
