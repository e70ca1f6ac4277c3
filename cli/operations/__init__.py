"""Commands for operations and marketing: trends, funnels, retention, campaigns."""
