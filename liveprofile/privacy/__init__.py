"""What is stored about one person: where, how long, and all of it in one file (docs/privacy.md)."""
