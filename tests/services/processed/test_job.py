"""What a job has stored and sent equals what the reference and a backtest compute.

Final state: the job ran without a restart, every window is closed, every record accounted for.
"""

from collections import Counter

from liveprofile.kafka.records import read_topic
from liveprofile.rules.rules import read_rules
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from tests.reference.validation import REASONS
from tests.support.compare import compare_with_reference
from tests.support.job_under_test import JobUnderTest
from tests.support.paths import ROOT


def test_output_equals_reference(processed) -> None:
    comparison = compare_with_reference(processed.job.settings)
    assert comparison.ok, comparison.as_json()
    assert comparison.job == comparison.reference
    assert comparison.job["records"] == processed.records
    assert (
        comparison.job["late"] > 20
        and comparison.job["windows"] > 500
        and comparison.job["flags"] > 1
    )


def test_job_ran_without_restart(job: JobUnderTest) -> None:
    assert (job.state(), job.restarts(), job.failure()) == ("RUNNING", 0, "")


def test_every_rejection_reason_occurs(job: JobUnderTest) -> None:
    rejected = read_topic(job.settings, job.settings.topics.rejected)
    reasons = Counter(record.headers["reason"].decode() for record in rejected)
    assert set(reasons) >= set(REASONS)
    assert not reasons["SCORING_FAILED"] and not reasons["UNREADABLE"], reasons


def test_rules_in_force_raise_the_alerts_that_the_job_has_raised(job: JobUnderTest) -> None:
    file = ROOT / "rules.toml"
    found = job.run("risk", "rules", "backtest", str(file), "--days", "100")
    assert found["windows"] > 0 and found["events"] > 0
    assert found["current"] == found["edited"]
    assert found["skipped"] == {}
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
