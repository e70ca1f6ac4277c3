"""Cassandra: session, schema, typed queries."""
