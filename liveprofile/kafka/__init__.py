"""Kafka producers, consumers and topics."""
