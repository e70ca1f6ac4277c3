"""The audit: accounts for every record of the input topic."""
