"""Numbered changes of the keyspace, applied by `liveprofile setup` (docs/operations.md)."""
