"""Consents of users by purpose: what is in force at a time, the topic's records, the table."""
