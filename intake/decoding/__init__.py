"""Decodes records in Confluent wire format and CloudEvents into events of the input topic."""
