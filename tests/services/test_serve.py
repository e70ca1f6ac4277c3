"""The read API on a real node: every answer equals what the queries of the command line return."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cassandra.cluster import Session

from liveprofile.alerts.cases import case_store
from liveprofile.alerts.cases.case_store import NewAlert
from liveprofile.client import Client, Conflict, NotFound, Unauthorized, Unavailable, calls
from liveprofile.client.analysis_models import CampaignRequest
from liveprofile.client.models import ConsentRequest
from liveprofile.config import Settings
from liveprofile.kafka.records import read_topic
from liveprofile.pseudonym import user_pseudonym
from liveprofile.rules.flags import Flag
from liveprofile.segments.members import members
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import from_ms
from liveprofile.storage.score_hours import score_hour_ms
from liveprofile.storage.segment_buckets import segment_bucket
from liveprofile.units import HOUR_MS
from tests.support.api_server import api_server, wait_until_ready
from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.rows.profile_rows import START_MS, WINDOW_MS, flag, profile_row
from udfs.consent_feed import read_consents
from udfs.erasure_feed import read_erasures
from udfs.profile.sink import CassandraProfileSink

pytestmark = pytest.mark.services

KEY_CACHE_MS = 1_000
SERVE = {"authentication": "keys", "key_cache_ms": KEY_CACHE_MS, "deadline_ms": 10_000}
PROFILE_JSON = b'{"features":{},"interests":{"caf\xc3\xa9":0.5},"category_affinity":{}}'
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

    def key(self, name: str, role: str = "reader") -> dict[str, Any]:
        done = run_cli(
            *("key", "create", name, "--role", role, "--json", "--config", self.job.config_file)
        )
        return json.loads(done.stdout)

    def client(self, name: str = "shop", role: str = "reader") -> Client:
        return Client(self.url, self.key(name, role)["key"], timeout_s=30)


@pytest.fixture(scope="module")
def api(new_job: Callable[..., JobUnderTest]) -> Iterator[Api]:
    """The API on a keyspace and topics of its own, with rows in every table that it reads."""
    job = new_job("api", serve=SERVE)
    with open_session(job.settings.cassandra) as session:
        fill(job.settings, session)
        with api_server(job.config_file) as url:
            wait_until_ready(url)
            yield Api(job, session, url)


def fill(settings: Settings, session: Session) -> None:
    dim = len(profile_row().embedding)
    width = int(
        session.cluster.metadata.keyspaces[settings.cassandra.keyspace]
        .tables["user_profile"]
        .columns["embedding"]
        .cql_type.rpartition(",")[2]
        .strip(" >")
    )
    sink = CassandraProfileSink(settings.cassandra, width, session)
    rows = [
        row._replace(embedding=padded(row.embedding, width, dim))
        for user, window in itertools.product(USERS, range(WINDOWS))
        for row in [
            profile_row(
                user,
                window,
                write_lookalike=True,
                flags=flags(user, window),
                profile_json=PROFILE_JSON,
            )
        ]
    ]
    sink.write(rows)
    sink.flush()
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


def padded(embedding: Any, width: int, dim: int) -> Any:
    import numpy as np

    return np.pad(embedding, (0, width - dim))


def flags(user: str, window: int) -> list[Flag]:
    """All users have flags of the same windows: a page ends between rows of one time."""
    return [flag(f"rule{n}", flag_id=f"{user}-{window}-{n}") for n in range(2)]


def comparable(row: Any) -> dict[str, Any]:
    """A row of liveprofile.storage.queries as the API answers."""
    fields = row._asdict()
    fields.pop("digests", None)
    return json.loads(json.dumps(fields))


def test_profiles_equal_the_stored_ones(api: Api) -> None:
    with api.client() as client:
        stored = queries.profile(api.session, "u7")
        answer = client.send(calls.profile("u7", embedding=True))
        expected = comparable(stored) | {"values_at_ms": stored.window_end_ms}
        assert answer.model_dump() == expected
        batch = client.send(calls.profiles([*USERS, "nobody"]))
        assert [profile.user_id for profile in batch.profiles] == USERS
        assert batch.unknown == ["nobody"]
        similar = client.send(calls.similar("u7", k=5))
        assert len(similar.similar) == 5
        assert client.send(calls.similar("u7", segment="loyal")).similar
        with pytest.raises(NotFound):
            client.send(calls.profile("nobody"))


def test_deltas_and_past_profiles_equal_the_stored_ones(api: Api) -> None:
    stored = [comparable(row) for row in queries.deltas(api.session, "u7")]
    with api.client() as client:
        answers = [each.model_dump() for each in client.items(calls.deltas("u7", limit=2))]
        assert answers == stored
        assert len(answers) == WINDOWS
        at = datetime.fromtimestamp((START_MS + 3 * WINDOW_MS + 1) / 1_000, UTC)
        past = client.send(calls.profile_at("u7", at))
        assert past.window_end_ms == START_MS + 3 * WINDOW_MS
        assert past.features == {"churn": 0.25}


@pytest.mark.parametrize("limit", [1, 3, 20, 50])
def test_pages_of_scores_are_complete(api: Api, limit: int) -> None:
    stored = [comparable(row) for row in queries.scores(api.session, "u0", SCORES + 1)]
    with api.client() as client:
        answers = [each.model_dump() for each in client.items(calls.scores("u0", limit=limit))]
    assert answers == stored
    assert len(answers) == SCORES


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_pages_of_flags_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        own = list(client.items(calls.flags("u3", limit=limit)))
        assert [each.model_dump() for each in own] == [
            comparable(row) for row in queries.flags(api.session, "u3")
        ]
        everybody = list(client.items(calls.alerts(limit=limit + 20)))
    stored = queries.flags(api.session, limit=10_000)
    assert len(stored) == 2 * WINDOWS * len(USERS)
    assert [each.flag_id for each in everybody] == [
        row.flag_id
        for row in sorted(stored, key=lambda row: (-row.window_end_ms, row.user_id, row.rule_id))
    ]


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_pages_of_segment_members_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        found = list(client.items(calls.segment_members("loyal", limit=limit)))
        [segment] = client.send(calls.user_segments("u3")).items
        assert client.send(calls.segment_sizes("loyal")).items == []
    assert [each.user_id for each in found] == [
        each.user_id for each in members(api.session, "loyal")
    ]
    assert sorted(each.user_id for each in found) == sorted(USERS)
    assert (segment.segment, segment.member, segment.since_ms) == ("loyal", True, 1)


def test_trend_equals_the_counts(api: Api) -> None:
    topic = api.settings.topics.events
    with api.client() as client:
        with pytest.raises(NotFound, match="trends update"):
            client.send(calls.trend())
        end_ms = START_MS // HOUR_MS * HOUR_MS + 3 * HOUR_MS
        api.session.execute(
            "INSERT INTO trend_chunk (topic, number, first, end, clocks, done)"
            " VALUES (%s, 1, {0: 0}, {0: 9}, {0: %s}, true) USING TTL 3600",
            (topic, end_ms + api.settings.window.out_of_orderness_ms),
        )
        for hour, events in ((3, 5), (1, 7)):  # nothing happened two hours before the end
            api.session.execute(
                "INSERT INTO trend (topic, span, scope, category, event_type, start, chunk, events,"
                " amount, users) VALUES (%s, 'hour', 'all', '', 'all', %s, 1, %s, 2.5, 1)"
                " USING TTL 3600",
                (topic, from_ms(end_ms - hour * HOUR_MS), events),
            )
        trend = client.send(calls.trend("hour", "events", count=3))
        assert trend.complete_until_ms == end_ms
        assert [point.value for point in trend.points] == [5, 0, 7]
        assert [point.value for point in client.send(calls.trend(count=1)).points] == [7]


@pytest.mark.parametrize("limit", [1, 5])
def test_pages_of_cases_are_complete(api: Api, limit: int) -> None:
    with api.client() as client:
        cases = list(client.items(calls.cases(limit=limit)))
        own = list(client.items(calls.cases("u1", limit=limit)))
    assert sorted(case.rule_id for case in cases) == sorted(f"r{number}" for number in range(12))
    assert [case.model_dump() for case in own] == [
        comparable(case) for case in case_store.read_cases(api.session, "u1")
    ]


def test_analyst_changes_alerts_and_each_write_is_audited(api: Api) -> None:
    flag_id = "u5-0-0"
    with api.client("otto", "analyst") as otto, api.client("anna", "analyst") as anna:
        assert otto.send(calls.set_state(flag_id, "acknowledged")).by == "otto"
        with pytest.raises(Conflict, match="acknowledged by otto"):
            anna.send(calls.set_state(flag_id, "acknowledged"))
        assert anna.send(calls.label(flag_id, "fraud", "chargeback")).labels_sent == 0
        anna.send(calls.snooze("u5", 3_600, "rule0"))
        details = otto.send(calls.alert(flag_id))
        assert [change.to_state for change in details.history] == ["confirmed", "acknowledged"]
        assert [snooze.by for snooze in details.snoozes] == ["anna"]
        anna.send(calls.end_snooze("u5", "rule0"))
        assert otto.send(calls.snoozes("u5")).items == []
        [confirmed] = otto.items(calls.alerts("u5", state="confirmed"))
        assert (confirmed.flag_id, confirmed.note) == (flag_id, "chargeback")
    with api.client("root", "admin") as admin:
        trail = admin.send(calls.audit(datetime.now(UTC)))
    writes = [(entry.name, entry.action, entry.outcome) for entry in trail.items]
    assert writes[:5] == [
        ("anna", "snooze.end", "done"),
        ("anna", "snooze.set", "done"),
        ("anna", "alert.label", "done"),
        ("anna", "alert.state", "refused"),
        ("otto", "alert.state", "done"),
    ]
    assert trail.items[2].before["state"] == "acknowledged"
    assert trail.items[2].after["state"] == "confirmed"


def test_label_of_an_event_reaches_kafka(api: Api) -> None:
    of_event = flag("event_rule", flag_id="f-event", event_id="e00")
    api.session.execute(
        "INSERT INTO risk_flag (user_id, window_end, rule_id, event_id, flag_id, window_start,"
        " reason, severity, action, value, threshold, message, evidence, model_version,"
        " rules_version) VALUES ('u0', %s, %s, 'e00', 'f-event', %s, 'R', 'high', 'a', 1, 1, 'm',"
        " '{}', 'm', 'r') USING TTL 3600",
        (from_ms(START_MS), of_event.rule_id, from_ms(START_MS)),
    )
    with api.client("otto", "analyst") as client:
        assert client.send(calls.label("f-event", "legitimate")).labels_sent == 1
    [record] = read_topic(api.settings, api.settings.topics.feedback)
    assert json.loads(record.value)["label"] == "legitimate"


def test_consents_and_erasures_reach_the_topics_and_are_carried_out(api: Api) -> None:
    asked_ms = round(time.time() * 1_000) - 1_000
    request = ConsentRequest(granted=False, time_ms=asked_ms, basis="consent")
    with api.client("pia", "privacy") as client:
        for _ in range(2):
            answer = client.send(calls.put_consent("asked", "marketing", request))
        assert not answer.purposes["marketing"].allowed and len(answer.history) == 1
        assert not read_consents(api.settings).allowed("asked", "marketing", asked_ms)
        with pytest.raises(NotFound, match="no erasure"):
            client.send(calls.erasure("asked"))
        first = client.send(calls.put_erasure("asked", asked_ms))
        assert client.send(calls.put_erasure("asked", asked_ms)) == first and not first.done
        assert read_erasures(api.settings).before_ms("asked") == asked_ms
        config = ("--json", "--config", api.job.config_file)
        report = json.loads(run_cli("erase", "--pending", *config).stdout)
        assert (report["user_id"], report["pending"]) == ("asked", {})
        assert client.send(calls.erasure("asked")).done
    with api.client("root", "admin") as admin:
        entries = admin.send(calls.audit(datetime.now(UTC))).items
    done = [(entry.action, entry.target) for entry in entries if entry.name == "pia"]
    # What the trail says of the user by name is deleted with the user.
    assert done == [("user.erase", user_pseudonym("asked"))]


def test_of_two_editors_of_the_same_rules_one_wins(api: Api) -> None:
    with api.client("root", "admin") as admin:
        rules = admin.send(calls.rules())
        shown = admin.send(calls.put_rules(rules.rules[:1], rules.tag, dry_run=True))
        assert (shown.dry_run, shown.tag) == (True, rules.tag)

        def edit(count: int) -> list[str]:
            try:
                admin.send(calls.put_rules(rules.rules[:count], rules.tag))
            except Conflict:
                return []
            return [rule["id"] for rule in rules.rules[:count]]

        with ThreadPoolExecutor() as threads:
            [written] = filter(None, threads.map(edit, (1, 2)))
        now = admin.send(calls.rules())
        assert [rule["id"] for rule in now.rules] == sorted(written)
        assert now.source == f"topic {api.settings.topics.rules}"
        trail = admin.send(calls.audit(datetime.now(UTC))).items
        outcomes = [entry.outcome for entry in trail if entry.action == "rules.put"]
        assert sorted(outcomes) == ["done", "refused"]
    listed = json.loads(run_cli("rules", "list", "--json", "--config", api.job.config_file).stdout)
    assert listed["rules"] == now.rules


def test_campaign_is_planned_once_for_all_users_and_reported(api: Api) -> None:
    request = CampaignRequest(control_share=0.5, response=1.0, start_ms=START_MS)
    with api.client("mia", "analyst") as client:
        planned = client.send(calls.plan_campaign("spring", request))
        assert planned.treatment + planned.control + sum(planned.left_out.values()) == len(USERS)
        targets = list(client.items(calls.campaign_targets("spring")))
        assert len(targets) == len({target.user_id for target in targets}) > 0
        groups = Counter(target.group for target in targets)
        assert groups == {"treatment": planned.treatment, "control": planned.control}
        with pytest.raises(Conflict, match="planned already"):
            client.send(calls.plan_campaign("spring", request))
        [listed] = client.send(calls.campaigns()).items
        assert (listed.planned_by, listed.summary) == ("mia", planned)
        report = client.send(calls.campaign_report("spring"))
        assert report.groups["all"].users == groups
        with pytest.raises(NotFound):
            client.send(calls.campaign_report("summer"))


def test_analyses_read_all_users(api: Api) -> None:
    with api.client("mia", "analyst") as client:
        preview = client.send(calls.preview_segments([]))
        assert preview.users == len(USERS)
        assert all(segment.users_then == 0 for segment in preview.segments)
        assert client.send(calls.funnel()).within_ms == 7 * 24 * HOUR_MS
        assert isinstance(client.send(calls.retention()).items, list)


def test_revoked_key_ends_within_the_cache_time(api: Api) -> None:
    key = api.key("temporary")
    with Client(api.url, key["key"]) as client:
        client.send(calls.profile("u0"))
        config = ("--config", api.job.config_file)
        run_cli("key", "revoke", key["key_id"], *config)
        time.sleep(KEY_CACHE_MS / 1_000 + 0.1)
        with pytest.raises(Unauthorized):
            client.send(calls.profile("u0"))
        listed = json.loads(run_cli("key", "list", "--json", *config).stdout)
    [state] = [each for each in listed if each["key_id"] == key["key_id"]]
    assert state["revoked_at_ms"]
    assert key["key"].rpartition("_")[2] not in json.dumps(listed)
    assert run_cli("key", "revoke", "nothing", *config, ok=False).returncode == 1


def test_server_waits_for_the_tables(
    api: Api, tmp_path: Path, new_job: Callable[..., JobUnderTest]
) -> None:
    config = tmp_path / "liveprofile.toml"
    keyspace = api.settings.cassandra.keyspace
    text = api.job.config_file.read_text("utf-8")
    config.write_text(text.replace(f'"{keyspace}"', f'"{keyspace}_later"'), encoding="utf-8")
    with api_server(config) as url, Client(url) as client:
        with pytest.raises(Unavailable):
            client.send(calls.ready())
        # Creates the keyspace with the tables of the API, not those of the job.
        run_cli("key", "create", "early", "--config", config)
        with pytest.raises(Unavailable):
            client.send(calls.ready())
    api.session.execute(f"DROP KEYSPACE {keyspace}_later", timeout=60)


def test_log_names_no_user(api: Api) -> None:
    with api.client() as client:
        client.send(calls.profile("u7"))
    log = api.job.config_file.with_suffix(".log").read_text("utf-8")
    assert "GET /v1/users/{user_id} 200" in log
    assert "u7" not in log
