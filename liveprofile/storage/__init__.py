"""Cassandra: sessions, schema, and typed queries."""
