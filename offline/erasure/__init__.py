"""Deletes stored rows: of erased users, and those that consents do not allow."""
