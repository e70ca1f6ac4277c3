"""Alerts: states, labels, cases and snoozes of flags; a consumer of the topic."""
