"""Alerts: CloudEvents, states of flags, snoozes and cases, and the consumer."""
