"""Commands that train, tune and evaluate models."""
