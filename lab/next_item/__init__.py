"""Next-item models on item sequences: data, models, training and evaluation."""
