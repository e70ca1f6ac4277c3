"""`liveprofile privacy erase` on the tables and the topic of a running job, for users with rows
only.
"""

import json
from pathlib import Path

from liveprofile.feeds.users import read_erasures
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.privacy.erasures import read_record, to_record
from liveprofile.storage.connection import open_session
from liveprofile.storage.erasures import erased_before_ms
from liveprofile.wire.user_records import CONTENT_TYPE, WHOLE_KEY, key_of
from models import trained_users
from models.trained_users import TrainedUsers, user_key
from services.privacy.erasures import PendingErasures
from tests.support.job_under_test import JobUnderTest
from tests.support.rows.stored_windows import store_windows

END_MS = 1_511_654_400_000


def test_erasures_are_sent_carried_out_and_tracked(job: JobUnderTest, tmp_path: Path) -> None:
    store_windows(job.settings, END_MS, "erased-1", "erased-2")
    job.run("privacy", "consent", "set", "erased-1", "--grant", "risk")
    file = tmp_path / "users.txt"
    file.write_text("erased-2\nerased-3\nerased-2\n", "utf-8")
    done = job.cli("privacy", "erase", "erased-1", "--file", file, "--json")
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["user_id"] for report in reports] == ["erased-1", "erased-2", "erased-3"]
    assert not any(report["pending"] for report in reports)
    first, second, without_rows = (report["rows"] for report in reports)
    assert {"user_profile", "profile_delta", "risk_flag"} <= first.keys() & second.keys()
    assert not without_rows

    topic = job.settings.topics.erasures
    records = (each for each in read_topic(job.settings, topic) if each.key != WHOLE_KEY)
    sent = {read_record(each.key, each.value or b"") for each in records}
    before_ms = read_erasures(job.settings).before_ms("erased-2")
    assert ("erased-2", before_ms) in sent and len({user for user, _ in sent}) >= 3

    status = job.run("privacy", "erase", "erased-2", "--status")
    assert status["done"] and status["before_ms"] == before_ms
    places = {each["place"]: each for each in status["places"]}
    assert places["tables"]["done"]
    assert places[f"topic {job.settings.topics.events}"]["clear_ms"] > before_ms
    for user in ("erased-3", "never-erased"):
        (folder := tmp_path / "models" / user).mkdir(parents=True)
        (folder / "weights").write_bytes(b"")
        (folder / "card.json").write_text(json.dumps({"version": "1"}))
        trained = TrainedUsers.of_training([user_key(user)], "rows")
        trained_users.write(folder, "weights", trained)
    models = job.cli("privacy", "erase", "--checkpoints", tmp_path / "models", "--json", ok=False)
    assert models.returncode == 1
    listed = [json.loads(line) for line in models.stdout.splitlines()]
    assert [each["erased_users"] for each in listed] == [["erased-3"], []]
    out = tmp_path / "erased-1.json"
    assert job.run("privacy", "export", "erased-1", "--out", str(out))["stored"] == {
        "user_consent": 1,
        "erasure": 1,
    }


def test_an_erasure_of_another_writer_is_pending_until_it_is_carried_out(job: JobUnderTest) -> None:
    record = (key_of("erased-4"), to_record("erased-4", 1_767_605_700_000), CONTENT_TYPE)
    send_all(job.settings, job.settings.topics.erasures, [record])
    assert not job.run("privacy", "erase", "erased-4", "--status", ok=False)["done"]
    with open_session(job.settings.cassandra) as session:
        assert "erased-4" in PendingErasures(job.settings).find(session)
        assert erased_before_ms(session, ["erased-4"], hidden=True)  # from now on
    assert job.run("privacy", "erase", "--pending")["user_id"] == "erased-4"
    assert job.run("privacy", "erase", "erased-4", "--status")["done"]
    never = job.cli("privacy", "erase", "nobody", "--status", ok=False)
    assert never.returncode == 2 and "was never erased" in never.stderr
