"""The read API over HTTP: `liveprofile serve api` (docs/api.md).

app.py puts the parts together; store/ reads and writes Cassandra; routes/ holds one file a subject.
"""
