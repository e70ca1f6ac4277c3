"""The log of looks at a test part."""

import json
import re

import pytest

from liveprofile.errors import InputError
from models.profile.evaluation.look_log import logged


def test_each_look_appends_a_line_with_date_commit_and_figures(tmp_path):
    log = tmp_path / "looks.jsonl"
    for value in (0.1, 0.2):
        report = {"version": "shop-1", "rows": "abc", "ndcg": value}
        assert logged(log, "general", lambda report=report: report) == report
    first, second = map(json.loads, log.read_text().splitlines())
    assert [first["figures"], second["figures"]] == [{"ndcg": 0.1}, {"ndcg": 0.2}]
    assert (first["recipe"], first["checkpoint"], first["rows"]) == ("general", "shop-1", "abc")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["date"])
    assert re.fullmatch(r"([0-9a-f]{40}(\+changes)?)?", first["commit"])


def test_nothing_is_measured_if_the_log_cannot_be_written(tmp_path):
    def measure():
        raise AssertionError("looked at the test part")

    with pytest.raises(InputError, match=r"test log .*missing.*No such file"):
        logged(tmp_path / "missing" / "looks.jsonl", "general", measure)
