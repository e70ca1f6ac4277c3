"""Risk rules: conditions, evaluation, flags."""
