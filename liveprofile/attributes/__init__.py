"""Attributes of users: stated by other systems, or computed from events."""
