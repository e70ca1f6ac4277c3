"""`liveprofile risk rules backtest` on the windows of a job."""

from __future__ import annotations

from collections import Counter

import pytest

from liveprofile.rules.rules import read_rules
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.support.paths import ROOT

pytestmark = pytest.mark.services


def test_rules_in_force_raise_the_alerts_that_the_job_has_raised(processed) -> None:
    job = processed.job
    file = ROOT / "rules.toml"
    found = job.run("risk", "rules", "backtest", str(file), "--days", "100")
    assert found["windows"] > 0 and found["events"] > 0
    assert found["current"] == found["edited"]
    assert (found["gained"], found["lost"], found["skipped"]) == ([], [], {})
    with open_session(job.settings.cassandra) as session:
        flags = queries.flags(session, limit=100_000)
    # A user's windows close in order of time; events may arrive in another, which cool-downs see.
    alerting = {
        rule.id
        for rule in read_rules(file).rules
        if (rule.scope, rule.state) == ("window", "ACTIVE")
    }
    raised = Counter(flag.rule_id for flag in flags if flag.rule_id in alerting)
    replayed = found["current"]["alerts_by_rule"]
    assert raised
    assert {name: count for name, count in replayed.items() if name in alerting} == dict(raised)
