"""Card transactions of the Fraud Detection Handbook: protocol and baselines."""
