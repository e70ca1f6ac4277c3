"""Campaigns: whom to contact, whom to leave out for comparison, and what the contact changed."""
