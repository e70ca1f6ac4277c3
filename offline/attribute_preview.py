"""Computes attributes over past events, to try definitions: `liveprofile attributes preview`."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow.dataset as ds

from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.computed import values_at
from liveprofile.errors import InputError
from liveprofile.settings import ENV_PREFIX, Settings
from offline.backfill import PROFILE_ROWS, backfill_rows

EXAMPLES = 3


class AttributePreview(NamedTuple):
    """How the values of an attribute are distributed over users."""

    attribute: str
    users: int
    unknown: float  # share of users
    zero: float  # share of users
    median: float | None  # of the known values, like the next four
    p90: float | None
    p99: float | None
    largest: float | None
    examples: list[str]  # users with the largest values but 0


def preview(
    settings: Settings,
    config: Path | None,
    definitions: Path,
    events: Path,
    mapping: Path | None,
    at_ms: int | None,
    on_step: Callable[[str], None],
) -> list[AttributePreview]:
    """Previews the computed attributes of a file of definitions over a file of events.

    config: the file of the settings. at_ms: None: when the last window ends. Raises InputError, and
    ServiceError if the job fails.
    """
    attributes = read_catalogue(settings, definitions).computed_attributes
    if not attributes:
        raise InputError(f"{definitions} has no computed attribute")
    with tempfile.TemporaryDirectory(prefix="liveprofile-preview-") as name:
        backfill_rows(
            settings,
            PROFILE_ROWS,
            Path(name),
            config=config,
            source=events,
            mapping=mapping,
            cluster=False,
            on_step=on_step,
            # The job is another process: it reads its settings from the file and the environment.
            variables={f"{ENV_PREFIX}ATTRIBUTES": str(definitions.resolve())},
        )
        values = _last_values(Path(name), at_ms)
    return [_preview(each.id, values) for each in attributes]


def _last_values(rows: Path, at_ms: int | None) -> dict[str, dict[str, float | None]]:
    """The attributes of each user after the user's last window that ends by `at_ms`."""
    last: dict[str, tuple[int, str]] = {}
    columns = ["user_id", "window_end_ms", "attribute_tiles"]
    for batch in ds.dataset(rows).to_batches(columns=columns):
        for row in batch.to_pylist():
            user_id, end_ms, text = row["user_id"], row["window_end_ms"], row["attribute_tiles"]
            if last.get(user_id, (0, ""))[0] < end_ms and (at_ms is None or end_ms <= at_ms):
                last[user_id] = end_ms, text
    if at_ms is None:
        at_ms = max((end_ms for end_ms, _ in last.values()), default=0)
    return {user: values_at(orjson.loads(text), at_ms) for user, (_, text) in last.items()}


def _preview(name: str, values: Mapping[str, Mapping[str, float | None]]) -> AttributePreview:
    known = {user: value for user, of in values.items() if (value := of[name]) is not None}
    numbers = np.array([*known.values()])
    points = np.quantile(numbers, (0.5, 0.9, 0.99, 1)).tolist() if known else [None] * 4
    users = max(len(values), 1)
    unknown, zero = 1 - len(known) / users, np.count_nonzero(numbers == 0) / users
    examples = sorted(filter(known.get, known), key=known.__getitem__, reverse=True)[:EXAMPLES]
    return AttributePreview(name, len(values), unknown, zero, *points, examples)
