"""The user model: network, encoding of its inputs, inference, and model checkpoints."""
