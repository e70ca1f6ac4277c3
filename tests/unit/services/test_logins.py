"""Which events are logins, and which logins become merges."""

import itertools
import json
import logging
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.consent.changes import ConsentChange, ConsentTable, PersonConsentTable
from liveprofile.events.validation import TYPES
from liveprofile.identity.merges import IdentityTable, Merge, read_record, to_record
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.settings import Settings, load
from liveprofile.wire.user_records import key_of
from services import logins as login_rules
from services.logins import Decisions, Login, LoginRules, Outcome, read_counts
from tests.support.memory.login_topics import (
    MemoryEvents,
    MemoryKafka,
    ProcessKilledError,
    opened,
    run_to_end,
)
from tests.support.streams.strategies import RECORD_MS, START_MS

ID = "5f0c2f3e-8f4b-4f0e-9a51-0d7a2f6c1b9e"
OTHER_ID = ID.replace("5f", "60")
EVENT = {"event_id": "e", "user_id": "u1", "event_type": "login", "event_time": START_MS}
SINCE_MS = START_MS + 60_000


def rules_of(options: Settings) -> LoginRules:
    return LoginRules(options.logins, options.limits, TYPES)


RULES = rules_of(Settings())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"text": "the \\u0022anonymous_id\\u0022 in a text"}, None),
        ({"anonymous_id": ID}, Login(ID, "u1", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "user_id": 42}, Login(ID, "42", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "event_type": "view"}, Login(ID, "u1", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "event_type": "heartbeat"}, None),
        ({"anonymous_id": ID, "user_id": ID}, Outcome.BEFORE_LOGIN),
        ({"anonymous_id": ID, "user_id": OTHER_ID}, Outcome.ACCOUNT_PATTERN),
        ({"anonymous_id": "u2"}, Outcome.BAD_PATTERN),
        ({"anonymous_id": f"{ID}\n"}, Outcome.BAD_ID),
        ({"anonymous_id": "x" * 257}, Outcome.BAD_ID),
        ({"anonymous_id": {"id": ID}}, Outcome.BAD_ID),
        ({"anonymous_id": ID, "user_id": ""}, Outcome.BAD_EVENT),
        ({"anonymous_id": ID, "event_time": RECORD_MS + 3_600_000}, Outcome.BAD_EVENT),
        ({"anonymous_id": ID, "text": "x" * 5_000_000}, Outcome.BAD_EVENT),
    ],
)
def test_event_is_a_login_or_has_a_reason(fields: dict[str, Any], expected: Any) -> None:
    value = json.dumps(EVENT | fields).encode()
    assert RULES.read(Record("behavior-events", 2, 7, RECORD_MS, b"u1", value, {})) == expected


def decisions(
    merges: dict[str, list[Merge]] | None = None,
    *,
    consents: dict[str, bool] | None = None,
    erased: str = "",
    options: Settings = Settings(),  # noqa: B008
) -> Decisions:
    table, erasures = IdentityTable(), ErasureTable()
    table_of_consents = ConsentTable(options.consent.defaults)
    for alias, each in (merges or {}).items():
        table.put(alias, each)
    for user, allowed in (consents or {}).items():
        table_of_consents.put(user, [ConsentChange(START_MS - 5, "profiling", allowed)])
    if erased:
        erasures.put(erased, START_MS - 5)
    of_persons = PersonConsentTable(table_of_consents, table, options.consent.defaults)
    return Decisions(table, of_persons, erasures)


def decide(given: Decisions, rules: LoginRules = RULES) -> Any:
    return rules.decide(Login(ID, "u1", RECORD_MS, 0, 0), given, START_MS, SINCE_MS)


OTHER = {OTHER_ID: [Merge("u1", 1)]}  # of the same account
MERGED = (Merge("u1", SINCE_MS),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (decisions(), MERGED),
        (decisions(OTHER), MERGED),
        (decisions({ID: [Merge("u1", 1)]}), Outcome.REPEATED),
        (decisions({ID: [Merge("u0", 1)], "u0": [Merge("u1", 2)]}), Outcome.REPEATED),
        (decisions({ID: [Merge("u2", 1)]}), Outcome.CONFLICT),
        (decisions({ID: [Merge("u2", 1)]}, erased="u1"), Outcome.CONFLICT),
        (decisions({ID: [Merge("u1", 1, 5)]}), Outcome.SPLIT),
        (decisions({"u1": [Merge("u2", 1)], "u2": [Merge(ID, 1)]}), Outcome.CIRCLE),
        (decisions(erased="u1"), Outcome.ERASED),
        (decisions(OTHER, erased=OTHER_ID), Outcome.ERASED),
        (decisions(consents={"u1": False}), Outcome.NO_CONSENT),
        (decisions(OTHER, consents={OTHER_ID: False}), Outcome.NO_CONSENT),
        (decisions(consents={"u2": False}), MERGED),
    ],
)
def test_login_is_merged_or_has_a_reason(given: Decisions, expected: Any) -> None:
    assert decide(given) == expected


def test_login_needs_consent_if_nothing_is_allowed_by_default() -> None:
    options = load(consent={"mode": "opt-in", "granted": ["risk"]})
    assert decide(decisions(options=options)) == Outcome.NO_CONSENT
    both = decisions(options=options, consents={ID: True, "u1": True})
    assert decide(both) == MERGED


def test_limits_of_ids_and_merges_refuse_the_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_rules, "MAX_IDS_BY_LOGIN", 3)
    monkeypatch.setattr(login_rules, "MAX_MERGES", 2)
    one, two = {"a": [Merge("u1", 1)]}, {each: [Merge("u1", 1)] for each in "ab"}
    assert decide(decisions(one)) == MERGED
    assert decide(decisions(two)) == Outcome.TOO_MANY_IDS
    others = {each: [Merge("u9", 1)] for each in "ab"}
    assert decide(decisions(others)) == Outcome.TOO_MANY_MERGES


SETTINGS = load(merges={"enabled": True}, logins={"anonymous_id_pattern": "anon-.+"})
NOW_MS = 1_800_000_000_000
SINCE_MS_LOGIN_SERVICE = NOW_MS + SETTINGS.merges.delay_ms
PARTITIONS = 3

# Which anonymous id logs in to which account, and how long after the one before.
steps = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.sampled_from([0, 0, 1, 50])), max_size=40
)


def records_of(logins: Sequence[tuple[int, int, int]]) -> list[Record]:
    """In the order of arrival: what arrives in one millisecond, by partition."""
    times_ms = itertools.accumulate((gap_ms for *_, gap_ms in logins), initial=NOW_MS - 1_000_000)
    arrivals = [
        (at_ms, user % PARTITIONS, anonymous, user)
        for at_ms, (anonymous, user, _) in zip(list(times_ms)[1:], logins, strict=True)
    ]
    offsets, records = Counter[int](), []
    for at_ms, partition, anonymous, user in sorted(arrivals, key=lambda each: each[:2]):
        value = event(f"e{len(records)}", f"user-{user}", anonymous_id=f"anon-{anonymous}")
        records.append(record(partition, offsets[partition], value, at_ms))
        offsets[partition] += 1
    return records


def event(event_id: str, user_id: str, **fields: Any) -> bytes:
    required = {"event_id": event_id, "user_id": user_id, "event_type": "view"}
    # A client may send any time: it does not decide which login is first.
    return json.dumps(
        required | {"event_time": NOW_MS - zlib.crc32(event_id.encode()) % 10**9} | fields
    ).encode()


def record(partition: int, offset: int, value: bytes, at_ms: int = NOW_MS) -> Record:
    return Record("behavior-events", partition, offset, at_ms, None, value, {})


def assert_merged_once(kafka: MemoryKafka) -> None:
    """Each anonymous id into the account of the login that arrived first."""
    first: dict[str, list[Merge]] = {}
    for each in kafka.records:
        fields = json.loads(each.value or b"")
        merge = Merge(fields["user_id"], SINCE_MS_LOGIN_SERVICE)
        first.setdefault(fields["anonymous_id"], [merge])
    written = [read_record(*each) for each in kafka.merges]
    assert dict(written) == first and len(written) == len(first)


@pytest.mark.slow
@given(steps, st.integers(0, 2**32), st.lists(st.integers(0, 4), max_size=4))
def test_order_cuts_kills_and_replays_do_not_change_the_merges(
    logins: list[tuple[int, int, int]], seed: int, kills: list[int]
) -> None:
    kafka = MemoryKafka(records_of(logins), PARTITIONS, random.Random(seed))
    for commits in kills:
        kafka.commits_left = commits
        with suppress(ProcessKilledError):
            run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
    kafka.commits_left = None
    run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
    assert_merged_once(kafka)
    counts = sum(read_counts(kafka.progress).values(), Counter())
    assert counts["merged"] == len(kafka.merges)
    kafka.progress = {}
    run_to_end(kafka, opened(kafka, SETTINGS, NOW_MS))
    assert_merged_once(kafka)


def kafka_of(*values: bytes) -> MemoryKafka:
    """Records in one partition."""
    records = [record(0, offset, value) for offset, value in enumerate(values)]
    return MemoryKafka(records, 1, random.Random(1))


def login(number: int, user_id: str = "user") -> bytes:
    return event(f"e{number}", user_id, anonymous_id=f"anon-{number}")


def test_login_past_the_ends_waits_for_an_earlier_one_of_another_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, plain = record(0, 0, login(9)), record(1, 0, event("e", "u"))
    early = record(1, 1, event("e1", "first", anonymous_id="anon-1"), NOW_MS + 1)
    late = record(0, 1, event("e2", "second", anonymous_id="anon-1"), NOW_MS + 2)
    kafka = MemoryKafka([first, plain, early, late], 2, random.Random(1))
    polls = [[first], [late, plain], [early]]

    def poll(events: MemoryEvents, timeout_s: float) -> list[Record]:
        for each in polls[0]:
            events.positions[each.partition] += 1
        return polls.pop(0)

    monkeypatch.setattr(MemoryEvents, "poll", poll)
    merger = opened(kafka, SETTINGS, NOW_MS)
    for kafka.arrived in (2, 4):
        merger.step()
    assert kafka.table().resolve("anon-1", SINCE_MS_LOGIN_SERVICE) == "first"


def test_merge_of_an_operator_counts_from_the_next_login_on() -> None:
    kafka = kafka_of(login(1), login(2))
    kafka.merges.append((key_of("anon-1"), to_record("anon-1", [Merge("operator", NOW_MS - 5)])))
    merger = opened(kafka, SETTINGS, NOW_MS)
    kafka.merges.append(
        (key_of("anon-2"), to_record("anon-2", [Merge("user", NOW_MS - 9, NOW_MS - 5)]))
    )
    run_to_end(kafka, merger)
    assert merger.counts == {"conflict": 1, "split": 1}
    assert len(kafka.merges) == 2


def test_refusals_are_logged_with_one_example_each_and_without_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = [event("e", f"user-{number}", anonymous_id="anon-secret") for number in range(50)]
    kafka = kafka_of(*taken, *[event("e", "user", anonymous_id="secret")] * 20)
    merger = opened(kafka, SETTINGS, NOW_MS)
    run_to_end(kafka, merger)
    with caplog.at_level(logging.INFO, login_rules.__name__):
        merger.stop()
        merger.run()
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert [each.partition(", the first")[0] for each in sorted(warnings)] == [
        "20 logins not merged: bad_pattern",
        "49 logins not merged: conflict",
    ]
    assert "user:" in caplog.text and "offset 1" in caplog.text
    assert "secret" not in caplog.text and "user-1" not in caplog.text
