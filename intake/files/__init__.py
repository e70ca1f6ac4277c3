"""Replay of files as behaviour events: mapping, translation, and sending to Kafka."""
