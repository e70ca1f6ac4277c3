"""Numbered changes of the keyspace, applied by `liveprofile job setup` (docs/deploy.md)."""
