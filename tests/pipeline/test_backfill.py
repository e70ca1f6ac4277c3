"""The backfill writes the rows that the model gets in the stream, and training reads them.

test_corrections.py compares rows of staggered windows.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from liveprofile.rules.definition_kinds import DefinitionsError
from liveprofile.settings import load
from models.profile.data import training_rows
from offline import backfill
from offline.attribute_preview import preview
from offline.backfill import PROFILE_ROWS, BackfillResult
from tests.pipeline.harness import run_backfill_in_this_process
from tests.pipeline.test_computed_attributes import fields
from tests.reference import computed
from tests.reference.profile import run_reference
from tests.reference.windows import Record
from tests.support.streams.shop import shop_events


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return list(islice(shop_events(3, 12, 60_000), 600))


@pytest.fixture(scope="module")
def backfilled(
    events: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[BackfillResult, Path]:
    work = tmp_path_factory.mktemp("backfill")
    archive, folder = work / "events.jsonl", work / "rows"
    archive.write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backfill, "_run_embedded", run_backfill_in_this_process)
        return backfill.backfill_rows(
            load(), PROFILE_ROWS, folder, config=None, source=archive, cluster=False
        ), folder


def test_rows_equal_those_of_the_stream(
    events: list[dict[str, Any]], backfilled: tuple[BackfillResult, Path]
) -> None:
    result, folder = backfilled
    streams = training_rows.read(folder)
    assert len(streams.time_ms_N) == len(events)
    records = [
        Record(0, offset, 1_790_000_000_000, None, json.dumps(event).encode())
        for offset, event in enumerate(events)
    ]
    expected = run_reference(records, load(), late=set()).profiles
    table = ds.dataset(folder, partitioning="hive").to_table()
    assert (result.events, result.rows) == (len(events), len(expected))
    rows = {(row["user_id"], row["window_end_ms"]): row for row in table.to_pylist()}
    assert rows.keys() == expected.keys()
    for key, profile in expected.items():
        windows, counted, purchases, amount, *_ = rows[key]["sums"]
        after = profile.after
        assert windows == after["windows"]
        assert (counted, purchases) == (after["events"], after["purchases"])
        assert amount == pytest.approx(after["amount"])
        # Point in time: no row contains an event from after its window, nor do its sums.
        times = [int(token.split("\x1f", 1)[0]) for token in rows[key]["events"].split("\x1e")]
        assert max(times) < key[1]


def test_preview_shows_the_distribution_of_the_reference(
    events: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, file = tmp_path / "events.jsonl", tmp_path / "attributes.toml"
    archive.write_text("".join(json.dumps(event) + "\n" for event in events))
    definitions = {
        "views": {"of": "view", "aggregate": "count", "within": "1 d"},
        "paid": {"of": "purchase", "aggregate": "mean", "value": "amount"},
    }
    table = "[[attributes]]\nid = '{}'\ntype = 'number'\ndescription = '.'\ncomputed = {{ {} }}\n"
    texts = {
        name: ", ".join(f"{k} = '{v}'" for k, v in d.items()) for name, d in definitions.items()
    }
    file.write_text("version = '1'\n" + "".join(table.format(*each) for each in texts.items()))
    monkeypatch.setattr(backfill, "_run_embedded", run_backfill_in_this_process)
    monkeypatch.setenv("LIVEPROFILE_ATTRIBUTES", str(file))
    at_ms = max(event["event_time"] for event in events) // 300_000 * 300_000 + 300_000
    found = preview(load(), None, file, archive, None, None, lambda step: None)
    assert [each.attribute for each in found] == [*definitions]
    of_user: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        of_user.setdefault(event["user_id"], []).append(fields(json.dumps(event).encode()))
    for each in found:
        definition = definitions[each.attribute] | {"of": [definitions[each.attribute]["of"]]}
        values = {user: computed.value_at(definition, own, at_ms) for user, own in of_user.items()}
        known = {user: value for user, value in values.items() if value is not None}
        assert (each.users, each.zero) == (len(values), [*values.values()].count(0.0) / len(values))
        assert each.unknown == pytest.approx(1 - len(known) / len(values))
        points = np.quantile([*known.values()], (0.5, 0.9, 0.99, 1))
        assert [each.median, each.p90, each.p99, each.largest] == pytest.approx(points.tolist())
        assert known[each.examples[0]] == max(known.values())
    with pytest.raises(DefinitionsError, match="no event type"):
        file.write_text(file.read_text().replace("'view'", "'vieww'"))
        preview(load(), None, file, archive, None, None, lambda step: None)
