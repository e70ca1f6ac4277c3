"""Which events are logins, and which logins become merges."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from liveprofile.consent.changes import ConsentBook, ConsentChange
from liveprofile.consent.persons import PersonConsentBook
from liveprofile.errors import ConfigError
from liveprofile.identity.book import MAX_IDS, IdentityBook, Merge
from liveprofile.identity.logins import Books, Login, LoginRules, Outcome
from liveprofile.kafka.records import Record
from liveprofile.privacy.erasures import ErasureBook
from liveprofile.settings import Settings, load
from liveprofile.settings.privacy import MOST_IDS
from tests.reference import validation as reference
from tests.support.streams.strategies import RECORD_MS, START_MS, behaviour_stream

ID = "5f0c2f3e-8f4b-4f0e-9a51-0d7a2f6c1b9e"
OTHER_ID = ID.replace("5f", "60")
EVENT = {"event_id": "e", "user_id": "u1", "event_type": "login", "event_time": START_MS}
SINCE_MS = START_MS + 60_000


def rules_of(settings: Settings) -> LoginRules:
    return LoginRules(settings.logins, settings.limits)


RULES = rules_of(Settings())


def read(value: bytes | None) -> Login | Outcome | None:
    return RULES.read(Record("behavior-events", 2, 7, RECORD_MS, b"u1", value, {}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"anonymous_id": None}, None),
        ({"text": "the \\u0022anonymous_id\\u0022 in a text"}, None),
        ({"anonymous_id": ID}, Login(ID, "u1", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID.upper()}, Login(ID.upper(), "u1", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "user_id": 42}, Login(ID, "42", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "event_type": "view"}, Login(ID, "u1", RECORD_MS, 2, 7)),
        ({"anonymous_id": ID, "event_type": "heartbeat"}, None),
        ({"anonymous_id": ID, "user_id": ID}, Outcome.BEFORE_LOGIN),
        ({"anonymous_id": ID, "user_id": OTHER_ID}, Outcome.ACCOUNT_PATTERN),
        ({"anonymous_id": "u2"}, Outcome.BAD_PATTERN),
        ({"anonymous_id": f"{ID}\n"}, Outcome.BAD_ID),
        ({"anonymous_id": f"{ID} "}, Outcome.BAD_PATTERN),
        ({"anonymous_id": 7}, Outcome.BAD_PATTERN),
        ({"anonymous_id": ""}, Outcome.BAD_ID),
        ({"anonymous_id": "x" * 257}, Outcome.BAD_ID),
        ({"anonymous_id": {"id": ID}}, Outcome.BAD_ID),
        ({"anonymous_id": ID, "user_id": ""}, Outcome.BAD_EVENT),
        ({"anonymous_id": ID, "event_time": RECORD_MS + 3_600_000}, Outcome.BAD_EVENT),
        ({"anonymous_id": ID, "text": "x" * 5_000_000}, Outcome.BAD_EVENT),
    ],
)
def test_event_is_a_login_or_has_a_reason(fields: dict[str, Any], expected: Any) -> None:
    assert read(json.dumps(EVENT | fields).encode()) == expected


def test_name_with_an_escape_is_read() -> None:
    value = json.dumps(EVENT | {"anonymous_id": ID}).replace("anonymous_id", "anonymous\\u005fid")
    assert read(value.encode()) == Login(ID, "u1", RECORD_MS, 2, 7)


@pytest.mark.parametrize("value", [None, b"", b'"anonymous_id"', b'{"anonymous_id": 1', b"\xff"])
def test_record_without_an_event_is_no_login(value: bytes | None) -> None:
    assert not isinstance(read(value), Login)


@pytest.mark.slow
@given(behaviour_stream())
@settings(max_examples=30)
def test_logins_are_those_of_the_events_that_the_reference_accepts(records: list[Any]) -> None:
    options = load(logins={"anonymous_id_pattern": "a.*"})
    rules = rules_of(options)
    for record in records:
        found = rules.read(
            Record("t", *record[:3], None, record.value, {})  # partition, offset, timestamp
        )
        expected = reference.validate(record.value, record.timestamp_ms, options.limits)
        is_login = (
            isinstance(expected, reference.ValidEvent)
            and expected.anonymous_id.startswith("a")
            and not expected.user_id.startswith("a")
        )
        assert isinstance(found, Login) == is_login
        if is_login:
            assert found[:2] == (expected.anonymous_id, expected.user_id)


def books(
    merges: dict[str, list[Merge]] | None = None,
    withdrawn: tuple[str, ...] = (),
    erased: tuple[str, ...] = (),
    granted: tuple[str, ...] = (),
    defaults: dict[str, bool] | None = None,
) -> Books:
    book, erasures = IdentityBook(), ErasureBook()
    defaults = defaults or Settings().consent.defaults
    consents = ConsentBook(defaults)
    for alias, each in (merges or {}).items():
        book.put(alias, each)
    for user in (*withdrawn, *granted):
        consents.put(user, [ConsentChange(START_MS - 5, "profiling", user in granted)])
    for user in erased:
        erasures.put(user, START_MS - 5)
    return Books(book, PersonConsentBook(consents, book, defaults), erasures)


def decide(given: Books, rules: LoginRules = RULES) -> Any:
    login = Login(ID, "u1", RECORD_MS, 0, 0)
    return rules.decide(login, given, START_MS, SINCE_MS)


ENDED = [Merge("u1", 1, 5)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (books(), (Merge("u1", SINCE_MS),)),
        (books({OTHER_ID: [Merge("u1", 1)]}), (Merge("u1", SINCE_MS),)),
        (books({ID: [Merge("u1", 1)]}), Outcome.REPEATED),
        (books({ID: [Merge("u0", 1)], "u0": [Merge("u1", 2)]}), Outcome.REPEATED),
        (books({ID: [Merge("u2", 1)]}), Outcome.CONFLICT),
        (books({ID: [Merge("u2", 1)]}, erased=("u1",)), Outcome.CONFLICT),
        (books({ID: ENDED}), Outcome.SPLIT),
        (books({ID: [Merge("u2", 1, 5)]}), Outcome.SPLIT),
        (books({"u1": [Merge(ID, 1)]}), Outcome.CIRCLE),
        (books({"u1": [Merge("u2", 1)], "u2": [Merge(ID, 1)]}), Outcome.CIRCLE),
        (books(erased=(ID,)), Outcome.ERASED),
        (books(erased=("u1",)), Outcome.ERASED),
        (books({OTHER_ID: [Merge("u1", 1)]}, erased=(OTHER_ID,)), Outcome.ERASED),
        (books(withdrawn=(ID,)), Outcome.NO_CONSENT),
        (books(withdrawn=("u1",)), Outcome.NO_CONSENT),
        (books({OTHER_ID: [Merge("u1", 1)]}, withdrawn=(OTHER_ID,)), Outcome.NO_CONSENT),
        (books(withdrawn=("u2",)), (Merge("u1", SINCE_MS),)),
    ],
)
def test_login_is_merged_or_has_a_reason(given: Books, expected: Any) -> None:
    assert decide(given) == expected


def test_login_needs_consent_if_nothing_is_allowed_by_default() -> None:
    options = load(consent={"profiling": False})
    defaults = options.consent.defaults
    assert decide(books(defaults=defaults), rules_of(options)) == Outcome.NO_CONSENT
    both = books(defaults=defaults, granted=(ID, "u1"))
    assert decide(both, rules_of(options)) == (Merge("u1", SINCE_MS),)


def test_limits_of_ids_and_merges_refuse_the_excess() -> None:
    rules = rules_of(load(logins={"ids_per_person": 3}))
    one, two = {"a": [Merge("u1", 1)]}, {each: [Merge("u1", 1)] for each in "ab"}
    assert decide(books(one), rules) == (Merge("u1", SINCE_MS),)
    assert decide(books(two), rules) == Outcome.TOO_MANY_IDS
    rules = rules_of(load(logins={"merges_in_all": 2}))
    assert decide(books(one), rules) == (Merge("u1", SINCE_MS),)
    assert decide(books({each: [Merge("u9", 1)] for each in "ab"}), rules) == (
        Outcome.TOO_MANY_MERGES
    )


def test_setting_is_limited_to_what_a_person_may_have() -> None:
    assert MOST_IDS == MAX_IDS


def test_pattern_must_be_a_regular_expression() -> None:
    with pytest.raises(ConfigError, match="is no regular expression"):
        load(logins={"anonymous_id_pattern": "("})
