"""The API on a keyspace and topics of its own, with rows in every table that it reads."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from cassandra.cluster import Session

from liveprofile.rows.risk import score_hour_ms
from liveprofile.rows.users import segment_bucket
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import from_ms
from liveprofile.units import HOUR_MS
from liveprofile_client import Client
from models.profile.model_card import ModelCard
from services.alerts import case_store
from services.alerts.case_store import NewAlert
from tests.support.api_server import api_server, wait_until_ready
from tests.support.job_under_test import JobUnderTest
from tests.support.rows.profile_rows import START_MS, flag, profile_row
from udfs.profile.store import CassandraProfileStore

SERVE = {"authentication": "keys", "deadline_ms": 10_000}
PROFILE_JSON = (
    b'{"features":{},"used_coupon":false,"interests":{"caf\xc3\xa9":0.5},"category_affinity":{}}'
)
WINDOWS = 5
USERS = [f"u{number}" for number in range(30)]
SCORES = 40


class Api(NamedTuple):
    job: JobUnderTest
    session: Session
    url: str

    @property
    def settings(self) -> Settings:
        return self.job.settings

    def client(self, name: str = "shop", *scopes: str) -> Client:
        options = (f"--scope={each}" for each in scopes or ("reader",))
        created = self.job.run("serve", "key", "create", name, *options)
        return Client(self.url, created["key"], timeout_s=30)


def fill(settings: Settings, session: Session) -> None:
    width = ModelCard.read(settings.model.checkpoint).shape["embedding"]
    sink = CassandraProfileStore(settings.cassandra, width, session)
    for user, window in itertools.product(USERS, range(WINDOWS)):
        # All users have flags of the same windows: a page ends between rows of one time.
        flags = [flag(f"rule{n}", flag_id=f"{user}-{window}-{n}") for n in range(2)]
        row = profile_row(user, window, write_lookalike=True, flags=flags, profile=PROFILE_JSON)
        embedding = np.pad(row.embedding, (0, width - len(row.embedding)))
        sink.writer.write([row._replace(embedding=embedding)])
    sink.writer.flush()
    insert = session.prepare(
        "INSERT INTO risk_score_by_hour (user_id, hour, event_time, event_id, event_type, amount,"
        " score, model_version, rules_version, active_rules) VALUES ('u0', ?, ?, ?, 'purchase', 5,"
        " 0.5, 'm', 'r', {'rule'}) USING TTL 3600"
    )
    hours = session.prepare(
        "INSERT INTO risk_score_hours (user_id, hour) VALUES ('u0', ?) USING TTL 3600"
    )
    for number in range(SCORES):
        # Four events at a time, five times an hour, every other hour.
        time_ms = START_MS + (number // 20) * 2 * HOUR_MS + (number // 4 % 5) * 60_000
        hour = from_ms(score_hour_ms(time_ms))
        session.execute(insert, (hour, from_ms(time_ms), f"e{number:02d}"))
        session.execute(hours, (hour,))
    member = session.prepare(
        "INSERT INTO segment_member (segment, bucket, user_id, since) VALUES ('loyal', ?, ?, 1)"
        " USING TTL 3600"
    )
    state = session.prepare(
        "INSERT INTO user_segment (user_id, segment, member, since, reason)"
        " VALUES (?, 'loyal', true, 1, '{}') USING TTL 3600"
    )
    for user in USERS:
        session.execute(member, (segment_bucket(user), user))
        session.execute(state, (user,))
    for number in range(12):
        alert = NewAlert(f"{number:032x}", 1, f"u{number % 4}", f"r{number}", "high", "a", "m")
        case_store.add_alert(session, alert, ttl_s=3_600)


@pytest.fixture(scope="package")
def api(new_job: Callable[..., JobUnderTest]) -> Iterator[Api]:
    """The API on a keyspace and topics of its own, with rows in every table that it reads."""
    job = new_job("api", serve=SERVE)
    with open_session(job.settings.cassandra) as session:
        fill(job.settings, session)
        with api_server(job.config_file) as url:
            wait_until_ready(url)
            yield Api(job, session, url)
