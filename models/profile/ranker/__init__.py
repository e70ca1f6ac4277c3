"""The ranker: what it reads of a user's memory, and its network."""
