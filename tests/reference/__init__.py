"""The data contract in plain Python, written from docs/data-contract.md alone.

It shares no code with the product, apart from the trained models, which it calls as they are.
"""
