"""Behaviour events: types, windows and modalities."""
