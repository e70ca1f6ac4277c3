"""Commands about one person's data."""
