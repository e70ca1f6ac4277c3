"""Machine learning: the user model, the fraud model and the next-item models."""
