"""When a UDF skips a row that it cannot process, and when it fails the task instead."""

from __future__ import annotations

# Errors that malformed data raises. Other errors fail the task: a lost GPU, or one without memory.
DATA_ERRORS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError)
# Malformed rows come mixed with good ones. If so many rows in a row fail, the code or the model is
# at fault: the task fails, because rejecting every event would lose them all.
MAX_CONSECUTIVE_FAILED_ROWS = 100
