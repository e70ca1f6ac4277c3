"""Parts of the cost of the read API."""
