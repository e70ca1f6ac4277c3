"""Numbered changes of the keyspace, applied by `liveprofile setup` (docs/deploy.md)."""
