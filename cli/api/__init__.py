"""Commands of the read API."""
