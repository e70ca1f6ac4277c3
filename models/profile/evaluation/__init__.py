"""Quality of the user model against baselines."""
