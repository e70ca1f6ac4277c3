"""`liveprofile model`: arguments are checked before Kafka is asked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.learning import model
from cli.main import app
from liveprofile.errors import InputError
from liveprofile.settings import ModelSettings
from models.profile.deployment import Deployment, reference_to
from models.profile.model_card import ModelCard
from tests.support.model_folders import copy_model


def run(tmp_path: Path, *arguments: str) -> Result:
    config = tmp_path / "liveprofile.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\nrequest_timeout_ms = 100\n')
    return CliRunner().invoke(app, ["model", *arguments, "--config", str(config)])


@pytest.mark.parametrize("percent", ["0", "100", "-1", "half"])
def test_share_of_a_canary_is_1_to_99_percent(percent: str, tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "b")
    assert run(tmp_path, "apply", str(folder), "--canary", percent).exit_code == 2


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model checkpoint .*/missing: card.json is missing"):
        raise run(tmp_path, "apply", "missing").exception


def test_model_that_the_job_cannot_serve_is_refused(tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "b", decay_days=7.0)
    with pytest.raises(InputError, match=r"state\.decay_days = 30, but model b was trained with 7"):
        raise run(tmp_path, "apply", str(folder)).exception


@pytest.mark.parametrize("arguments", [("list",), ("rollback",)])
def test_kafka_that_does_not_answer_is_an_error(arguments: tuple[str], tmp_path: Path) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code != 0 and "127.0.0.1:1 does not answer" in str(result.exception)


def deployment_of(folder: Path, **fields: Any) -> Deployment:
    reference = reference_to(str(folder))
    now = datetime(2026, 11, 30, tzinfo=UTC)
    return Deployment(revision=1000, model=reference, applied_at=now, **fields)


def test_each_model_has_the_end_of_its_training(tmp_path: Path) -> None:
    until = datetime(2026, 9, 1, tzinfo=UTC)
    new = copy_model(tmp_path, "new", data={"train_until": until.isoformat()})
    gone = copy_model(tmp_path, "gone")
    deployments = [deployment_of(new), deployment_of(gone)]
    (gone / "card.json").unlink()  # as if it were on the workers' machines only
    configured = ModelSettings().checkpoint
    assert model._trained_until(configured, deployments) == {
        str(configured): datetime(2017, 10, 1, tzinfo=UTC),
        str(new): until,
    }


def test_list_advises_to_train_an_old_model_again() -> None:
    until = datetime(2026, 9, 1, tzinfo=UTC)
    lines = [model._age("/m", until, until + timedelta(days=days)) for days in (60, 61)]
    assert lines[0] == "/m: trained on windows until 2026-09-01, 60 days ago"
    assert lines[1].endswith("61 days ago; train it again (docs/model.md)")


def test_card_without_the_end_of_the_training_is_refused(tmp_path: Path) -> None:
    card = ModelCard.read(copy_model(tmp_path, "b", data={}))
    with pytest.raises(InputError, match=r"model card of b: data\.train_until is no time"):
        _ = card.trained_until
