"""`liveprofile model`: arguments are checked before Kafka is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from liveprofile.errors import InputError
from tests.support.model_folders import copy_model


def run(tmp_path: Path, *arguments: str) -> Result:
    config = tmp_path / "liveprofile.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\nrequest_timeout_ms = 100\n')
    return CliRunner().invoke(app, ["model", *arguments, "--config", str(config)])


@pytest.mark.parametrize("percent", ["0", "100", "-1", "half"])
def test_share_of_a_canary_is_1_to_99_percent(percent: str, tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "b")
    assert run(tmp_path, "apply", str(folder), "--canary", percent).exit_code == 2


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("missing", r"model checkpoint .*/missing: card.json is missing"),
        ("s3://models/b", "s3://models/b is no local folder"),
    ],
)
def test_folder_without_a_model_is_refused(folder: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        raise run(tmp_path, "apply", folder).exception


def test_model_that_the_job_cannot_serve_is_refused(tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "b", decay_days=7.0)
    with pytest.raises(InputError, match=r"state\.decay_days = 30, but model b was trained with 7"):
        raise run(tmp_path, "apply", str(folder)).exception


@pytest.mark.parametrize("arguments", [("list",), ("rollback",)])
def test_kafka_that_does_not_answer_is_an_error(arguments: tuple[str], tmp_path: Path) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code != 0 and "127.0.0.1:1 does not answer" in str(result.exception)
