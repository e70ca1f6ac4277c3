"""Commands for alerts, rules, drift and analyst labels."""
