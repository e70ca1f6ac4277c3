"""The data contract in plain Python, written independently of the product."""
