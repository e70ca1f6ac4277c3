"""The Fraud Detection Handbook's task on card transactions."""
