"""Sets Python's garbage collector for a worker that makes many short-lived objects."""

from __future__ import annotations

import gc

# A batch makes tens of thousands of objects and drops them again without cycles. The default of
# 700 would scan its living objects a hundred times.
NEW_OBJECTS = 20_000


def collect_rarely() -> None:
    """Call it when everything is loaded: what exists now is never scanned again.

    Torch, pandas and Beam leave 300,000 permanent objects. Scanning them again and again took a
    quarter of a batch's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
