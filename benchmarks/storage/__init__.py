"""What a window and a scored event cost on Cassandra's disk."""
