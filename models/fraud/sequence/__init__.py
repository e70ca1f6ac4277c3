"""The sequence part of the fraud model: a Transformer over the user's last events."""
