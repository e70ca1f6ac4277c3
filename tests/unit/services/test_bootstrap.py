"""Bootstrap: the settings of the job over the archive, and files that it refuses."""

import os
from pathlib import Path

import pytest

from liveprofile.errors import InputError
from liveprofile.settings import load
from services.bootstrap import archive_variables, check_files
from tests.support.paths import ROOT

MAPPING = ROOT / "mappings" / "user_behavior.toml"


def test_job_over_archive_shares_only_outputs_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEPROFILE_TOPICS__PREFIX", "shop-")
    monkeypatch.setenv("LIVEPROFILE_KAFKA__STARTUP_MODE", "latest")
    live = load()
    archive = load(environment=os.environ | archive_variables(live))
    assert archive.topics.events == "shop-behavior-events-bootstrap"
    assert archive.topics.alerts == "shop-risk-alerts-bootstrap"
    assert archive.topics.segment_changes == "shop-segment-changes-bootstrap"
    assert archive.topics.late == live.topics.late
    assert (archive.job.name, archive.kafka.group_id) == ("liveprofile-bootstrap",) * 2
    assert archive.kafka.startup_mode == "earliest" and archive.scoring.replay
    assert archive.cassandra == live.cassandra


def test_event_ids_with_row_numbers_need_one_file(tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("1,2,3,pv,1511658000\n")
    check_files([tmp_path / "1.csv"], MAPPING)
    with pytest.raises(InputError, match=r"event_id = '\{user\}-\{row\}' repeats"):
        check_files([tmp_path / "1.csv", tmp_path / "2.csv"], MAPPING)
