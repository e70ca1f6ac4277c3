"""Attributes on real Kafka and Cassandra: what is read is what the contract says."""

import json
import random
from collections.abc import Callable

import orjson
import pytest
from cassandra.cluster import Session

from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.statements import (
    SEGMENT_PURPOSES,
    Statement,
    new_statement,
    resolve,
    to_event,
)
from liveprofile.attributes.table import (
    AttributeTable,
    Progress,
    RejectedRecord,
    apply_records,
    attributes_group,
    send_statements,
    send_withdrawal,
)
from liveprofile.kafka.offsets import commit_offsets, lag, partition_ranges
from liveprofile.kafka.records import send_all
from liveprofile.settings import CassandraSettings
from liveprofile.storage.cql import now_ms
from liveprofile.storage.queries import TOKEN_MAX, TOKEN_MIN
from liveprofile.units import DAY_MS
from liveprofile.wire.user_records import CONTENT_TYPE, to_rfc3339
from tests.reference.attributes import attributes_at
from tests.support.job_under_test import JobUnderTest
from tests.support.rows.profile_rows import DIM
from udfs.profile.store import CassandraProfileStore

USERS = [f"ü{number}" for number in range(60)]
START_MS = now_ms() - 10 * DAY_MS
Apply = Callable[[], tuple[Progress, list[RejectedRecord]]]


@pytest.fixture(scope="module")
def job(new_job: Callable[..., JobUnderTest], settings: CassandraSettings) -> JobUnderTest:
    """Has its topics only; it is not submitted."""
    return new_job("attributes", tables=False, cassandra={"keyspace": settings.keyspace})


@pytest.fixture(scope="module")
def table(job: JobUnderTest, session: Session) -> AttributeTable:
    return AttributeTable(session, job.settings.cassandra)


@pytest.fixture(scope="module")
def apply(job: JobUnderTest, table: AttributeTable) -> Apply:
    catalogue = read_catalogue(job.settings)

    def run() -> tuple[Progress, list[RejectedRecord]]:
        rejected: list[RejectedRecord] = []
        return apply_records(job.settings, catalogue, table.write, rejected.append), rejected

    return run


def random_statements(rng: random.Random) -> list[Statement]:
    """Few sources and times, so that statements contradict and replace each other and expire."""
    said = {}
    for _ in range(600):
        user, source = rng.choice(USERS), rng.choice(["crm", "bureau", "id"])
        kind = rng.choice(["declared", "third_party", "verified"])
        time_ms = START_MS + rng.randrange(5) * DAY_MS
        said[user, source, time_ms, kind] = new_statement(
            user_id=user,
            source=source,
            kind=kind,
            purpose=rng.choice(["any", "marketing", "risk"]),
            time_ms=time_ms,
            expires_ms=time_ms + rng.choice([1, 3, 30, 400]) * DAY_MS,
            values={
                name: rng.choice(values)
                for name, values in (
                    ("household_size", ["1", "2", "5+"]),
                    ("identity_verified", [True, False]),
                    ("identity_check_score", [0, 0.25, 1]),
                )
                if rng.random() < 0.6
            },
        )
    return list(said.values())


def assert_as_the_contract_says(table: AttributeTable, statements: list[Statement]) -> None:
    events = [orjson.loads(to_event(one)) for one in statements]
    stored = table.read(USERS)
    for day in (0, 2, 5, 40):
        at_ms = START_MS + day * DAY_MS
        for user in USERS:
            found = resolve(stored.get(user, ()), at_ms, SEGMENT_PURPOSES)
            expected = attributes_at(events, user, to_rfc3339(at_ms), set(SEGMENT_PURPOSES))
            assert {name: (one.value, one.source) for name, one in found.items()} == expected


def test_stored_attributes_are_those_of_the_contract_also_after_a_replay(
    job: JobUnderTest, table: AttributeTable, apply: Apply
) -> None:
    rng, settings = random.Random(23), job.settings
    topic, group = settings.topics.attributes, attributes_group(settings.kafka)
    statements = random_statements(rng)
    sent = statements + rng.sample(statements, 100)
    rng.shuffle(sent)
    send_statements(settings, sent[:300])
    progress, _ = apply()
    assert progress == Progress(300, 0)
    send_statements(settings, sent[300:])
    face = orjson.loads(to_event(statements[0]))
    face["data"]["attributes"] = {"face": [0.1, 0.2]}
    send_all(settings, topic, [(statements[0].key, orjson.dumps(face), CONTENT_TYPE)])
    progress, [rejected] = apply()
    assert progress == Progress(len(sent) - 300, 1)
    assert "must be a bool, a number or a text" in rejected.reason
    assert_as_the_contract_says(table, statements)
    assert lag(settings, group, topic) == 0

    before = table.read(USERS)
    starts = {number: span.first for number, span in partition_ranges(settings, topic).items()}
    commit_offsets(settings, topic, group, starts)
    assert apply()[0] == Progress(len(sent), 1)
    assert table.read(USERS) == before
    assert table.read_between(TOKEN_MIN, TOKEN_MAX) == before
    assert all(len(rows) <= 9 for rows in before.values()), "older statements stay"


def test_job_reads_what_the_commands_store_show_and_withdraw(
    job: JobUnderTest, session: Session, apply: Apply
) -> None:
    statement = new_statement(
        user_id="shown",
        source="idcheck",
        kind="verified",
        purpose="risk",
        time_ms=now_ms() - 60_000,
        expires_ms=now_ms() + DAY_MS,
        values={"identity_verified": True},
    )
    send_statements(job.settings, [statement])
    apply()
    sink = CassandraProfileStore(job.settings.cassandra, DIM, session)
    assert sink.users.statements(["shown", "stranger"]) == {"shown": [statement], "stranger": []}
    shown = job.cli("attributes", "show", "shown", "--json")
    found = json.loads(shown.stdout)["identity_verified"]
    assert (found["value"], found["source"], found["kind"]) == (True, "idcheck", "verified")
    assert found["expires_ms"] == statement.expires_ms
    ttl_s = session.execute(
        "SELECT TTL(attributes) FROM user_attribute WHERE user_id = 'shown'"
    ).one()[0]
    assert 30 * 86_400 < ttl_s <= 31 * 86_400 + 1
    send_withdrawal(job.settings, "shown", "idcheck")
    apply()
    assert sink.users.statements(["shown"]) == {"shown": []}
