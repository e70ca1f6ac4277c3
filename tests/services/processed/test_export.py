"""`liveprofile privacy export` finds each row of a user that a scan of all tables finds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cassandra.cluster import Session

from liveprofile.privacy.places import TABLES
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute, now_ms, read
from liveprofile.units import HOUR_MS
from services.alerts.case_store import NewAlert, add_alert
from services.alerts.consumer.loop import HandledStore
from services.alerts.snooze import snooze
from services.alerts.states import AlertState, transition
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import REGULAR_USER


@contextmanager
def worked_on(session: Session) -> Iterator[None]:
    """A flag of the user that analysts and a consumer have worked on, as long as the test lasts."""
    flag = queries.flags(session, REGULAR_USER)[0]
    alert = NewAlert(flag.flag_id, 1, REGULAR_USER, flag.rule_id, "high", "action", "message")
    add_alert(session, alert, ttl_s=600)
    snooze(session, REGULAR_USER, "some_rule", now_ms() + HOUR_MS, "analyst", "note")
    transition(session, flag, AlertState.ACKNOWLEDGED, "analyst", ttl_s=600)
    HandledStore(session, "consumer").add(flag.flag_id, "handler")
    try:
        yield
    finally:
        for table in "risk_case", "risk_snooze":
            execute(session, f"DELETE FROM {table} WHERE user_id = %s", (REGULAR_USER,))
        execute(session, "DELETE FROM flag_state WHERE flag_id = %s", (flag.flag_id,))


def test_export_holds_all_rows_of_the_user_and_no_other(job: JobUnderTest, tmp_path: Path) -> None:
    out = tmp_path / "user.json"
    with open_session(job.settings.cassandra) as session, worked_on(session):
        summary = job.run("privacy", "export", REGULAR_USER, "--out", str(out), "--topics")
        stored = json.loads(out.read_text("utf-8"))["stored"]
        assert TABLES.keys() <= stored.keys()
        for name in TABLES:
            rows = stored[name]["rows"]
            assert summary["stored"].get(name, 0) == len(rows)
            everything = list(read(session, f"SELECT * FROM {name}"))
            if everything and hasattr(everything[0], "user_id"):
                assert len(rows) == sum(row.user_id == REGULAR_USER for row in everything), name
            found = {name for name in TABLES if stored[name]["rows"]}
    assert found >= {"user_profile", "profile_delta", "user_lookalike", "risk_score_by_hour"}
    assert found >= {"risk_score_hours", "risk_flag", "risk_flag_by_day", "flag_state"}
    assert found >= {"risk_snooze", "risk_case", "alert_handled", "user_segment"}
    assert found >= {"segment_member", "segment_change"}
    (profile,) = stored["user_profile"]["rows"]
    assert profile["profile"]["features"]["events"] > 0
    sent = stored[job.settings.topics.events]["records"]
    assert sent and all(REGULAR_USER in json.dumps(record["value"]) for record in sent)
    assert stored[job.settings.topics.alerts]["records"]

    again = job.cli("privacy", "export", REGULAR_USER, "--out", out, ok=False)
    assert again.returncode == 2 and "exists" in again.stderr
    done = job.cli("privacy", "export", "nobody", "--out", tmp_path / "nobody.json", ok=False)
    assert done.returncode == 1 and "nothing is stored" in done.stderr
    assert list(tmp_path.iterdir()) == [out]
