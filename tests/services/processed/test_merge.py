"""`liveprofile identity merge` on the topics of a running job, for users without events."""

import json
from pathlib import Path
from typing import Any

from liveprofile.feeds.users import read_erasures, read_merges
from liveprofile.identity.merges import END_OF_TIME_MS
from liveprofile.settings import load
from tests.support.job_under_test import JobUnderTest, run_cli


def test_merges_are_sent_shown_split_and_erased(job: JobUnderTest, tmp_path: Path) -> None:
    config = job.other_settings("merges.toml", merges={"enabled": True, "delay_ms": 0})

    def run(*arguments: str, code: int = 0) -> Any:
        done = run_cli(*arguments, "--json", "--config", config, ok=False)
        assert done.returncode == code, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return done.stderr if code else lines[0] if len(lines) == 1 else lines

    run("job", "setup")
    assert run("identity", "merge", "phone-1", "merged-1")["user_id"] == "merged-1"
    run("identity", "merge", "session-1", "phone-1")
    shown = run("identity", "merge", "--show", "merged-1")
    assert shown["ids"] == ["merged-1", "phone-1", "session-1"]
    assert run("identity", "merge", "--show", "session-1")["person"] == "merged-1"
    assert "would be a circle" in run("identity", "merge", "merged-1", "session-1", code=2)
    assert "'phone-1' is an alias of 'merged-1' already" in run(
        "identity", "merge", "phone-1", "x", code=2
    )

    run("identity", "merge", "session-2", "merged-1")
    assert run("identity", "merge", "--split", "session-2")["until"]
    assert "no other id" in run("identity", "merge", "--show", "session-2", code=1)
    rows = run("identity", "merge", "--list")
    assert {row["alias_id"] for row in rows} >= {"phone-1", "session-1", "session-2"}

    run("privacy", "consent", "set", "session-1", "--grant", "risk")
    out = tmp_path / "person.json"
    assert run("privacy", "export", "merged-1", "--out", str(out))["stored"] == {"user_consent": 1}
    assert json.loads(out.read_bytes())["ids"] == ["merged-1", "phone-1", "session-1"]

    done = run_cli("privacy", "erase", "phone-1", "--json", "--config", config)
    assert "session-2 was merged with these users and split" in done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["user_id"] for each in reports} == {"merged-1", "phone-1", "session-1"}
    settings = load(config)
    erased, merges = read_erasures(settings), read_merges(settings)
    times_ms = {erased.before_ms(user) for user in ("merged-1", "phone-1", "session-1")}
    assert len(times_ms) == 1 and None not in times_ms and "session-2" not in erased
    assert merges.ids_of("merged-1", END_OF_TIME_MS) == ["merged-1"] and "session-2" not in merges
    assert "was erased" in run("identity", "merge", "session-2", "merged-1", code=2)
