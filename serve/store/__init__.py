"""What the API reads and writes: the protocol, and its implementation on Cassandra."""
