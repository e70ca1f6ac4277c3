"""The sequence part of the fraud model: a Transformer over the last events of the lists."""
