"""Compares the output of the profile pipeline with tests/reference/profile.py."""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace

from liveprofile.resources import product_path
from liveprofile.settings import Settings
from tests.pipeline.harness import ProfileOutput, is_utf8
from tests.reference.profile import Result, run_reference
from tests.reference.validation import REASONS_WITH_DETAIL
from tests.reference.windows import NOBODY, Record
from tests.support.compare_profiles import Comparison, Expected, Key, compare_window
from tests.support.model_scores import load_model, run_scored
from tests.support.streams import seeded
from udfs.profile.rows import ProfileRow

RECORD_MS = 1_790_000_000_000


def in_one_partition(messages: list[seeded.Message]) -> list[Record]:
    records = [
        Record(0, offset, RECORD_MS, message.key, message.value)
        for offset, message in enumerate(messages)
    ]
    return [record for record in records if is_utf8(record)]


def assert_equals_reference(
    records: list[Record],
    output: ProfileOutput,
    settings: Settings,
    erased: Mapping[str, int] = NOBODY,
) -> Result:
    """Compares all windows and the class of each record; returns what the reference found.

    erased: user -> time in ms, before which the user has no past.
    """
    late = {sent.position for sent in output.sent_to(settings.topics.late)}
    rules = tomllib.loads(product_path(settings.rules).read_text(encoding="utf-8"))["rules"]
    expected, scores_by_window = run_scored(
        load_model(settings),
        lambda score: run_reference(records, settings, score=score, rules=rules, erased=erased),
    )
    assert expected.late == late

    rejected = {sent.position: sent.headers for sent in output.sent_to(settings.topics.rejected)}
    assert rejected.keys() == expected.rejected.keys()
    values = {(record.partition, record.offset): record.value for record in records}
    for sent in output.sent_to(settings.topics.rejected):
        reason, detail = expected.rejected[sent.position]
        assert sent.headers["reason"] == reason, sent
        if reason in REASONS_WITH_DETAIL:
            assert sent.headers["detail"] == detail, sent
        value = values[sent.position]
        is_long = value is not None and len(value.decode()) > settings.limits.max_payload_chars
        forwarded = None if value is None else value.decode()[: settings.limits.max_payload_chars]
        assert sent.value == ("" if reason == "ERASED" else forwarded)
        assert ("truncated" in sent.headers) == is_long

    comparison = Comparison()
    stored = {Key(*key): row for key, row in output.sink.deltas.items()}
    assert stored.keys() == expected.profiles.keys()
    for (key, profile), scores in zip(expected.profiles.items(), scores_by_window, strict=True):
        row = stored[Key(*key)]
        compare_window(
            comparison,
            Key(*key),
            as_stored(row),
            Expected(profile, scores, truncated=False, memory_truncated=False),
        )
        comparison.equal("rules", key, set(row.active_rules), set(profile.active_rules))
        comparison.equal(
            "flags", key, *({flag.flag_id for flag in side.flags} for side in (row, profile))
        )
    assert comparison.ok, json.dumps(comparison.as_json(), indent=2)

    alerts = [json.loads(sent.value or "") for sent in output.sent_to(settings.topics.alerts)]
    flags = [flag.flag_id for profile in expected.profiles.values() for flag in profile.flags]
    assert Counter(alert["id"] for alert in alerts) == Counter(flags)
    return expected


def as_stored(row: ProfileRow) -> SimpleNamespace:
    """Returns the row with the fields of liveprofile.storage.queries.StoredDelta."""
    return SimpleNamespace(**row._asdict())
