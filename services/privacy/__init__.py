"""Consents and erasures: asked for, carried out, logged; export of what is stored."""
