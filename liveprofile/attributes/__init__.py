"""Attributes from elsewhere: what others state about users, with source, expiry and purpose."""
