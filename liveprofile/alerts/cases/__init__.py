"""What people do with risk flags: states, snoozes and cases, kept in Cassandra (docs/alerts.md).

Each function takes a session of `liveprofile.storage.connection.connect`. Times are UTC epoch milliseconds.
Raises ServiceError if Cassandra doesn't answer.
"""
