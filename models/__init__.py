"""What learns: the user model, the fraud model, next-item models."""
