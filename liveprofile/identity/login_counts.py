"""How many events had which outcome, as notes beside the offsets that are committed.

They are part of its transactions. So they go on after a restart, and the exporter reads them
without asking the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import orjson

from liveprofile.identity.logins import Outcome
from liveprofile.kafka.offsets import Progress

Counts = dict[int, Counter[str]]  # by partition of the events, of outcomes


def write_note(counts: Counter[str]) -> str:
    return orjson.dumps(dict(counts)).decode()


def read_counts(progress: Mapping[int, Progress]) -> Counts:
    """Offsets that another tool has committed have no counts, or none of these names."""
    return {number: _read_note(each.note) for number, each in progress.items()}


def _read_note(note: str) -> Counter[str]:
    try:
        found = orjson.loads(note)
    except orjson.JSONDecodeError:
        return Counter()
    if not isinstance(found, dict):
        return Counter()
    known = (each.value for each in Outcome)
    return Counter({name: found[name] for name in known if isinstance(found.get(name), int)})
