"""Analysts' work on risk flags: alert states, snoozes and cases, stored in Cassandra.

docs/alerts.md. Every function takes a session of `liveprofile.storage.connection.connect`. Times
are UTC epoch milliseconds. Every function raises ServiceError if Cassandra does not answer.
"""
