"""What the API and the console read and do, on Cassandra."""
