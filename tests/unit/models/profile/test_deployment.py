"""Deployments of the user model: which model serves which user, rollbacks, refusals."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from liveprofile.errors import InputError
from models.profile import deployment
from models.profile.deployment import (
    FIRST_REVISION,
    KEPT_DEPLOYMENTS,
    ModelReference,
    UserModels,
    in_canary,
)
from models.profile.model_card import CARD, VOCABULARY, WEIGHTS, ModelCard
from tests.support.model_folders import copy_model
from tests.support.paths import ROOT

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def reference(version: str) -> ModelReference:
    digests = dict.fromkeys((CARD, WEIGHTS, VOCABULARY), version)
    return ModelReference(version=version, folder=f"/models/{version}", sha256=digests)


def after(*steps: str) -> UserModels | None:
    """The record after these steps: "b" applies model b, "b20" to 20 %, "<" rolls back."""
    models = None
    for step in steps:
        if step == "<":
            models = deployment.rollback(models, "test", NOW)
        else:
            percent = int(step[1:]) if step[1:] else None
            models = deployment.apply(models, reference(step[0]), percent, "test", NOW)
    return models


def served(models: UserModels) -> str:
    newest = models.newest
    model = newest.model.version if newest.model else "configured"
    canary = f"+{newest.canary.version}{newest.canary_percent}" if newest.canary else ""
    return model + canary


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("a", "a"),
        ("a20", "configured+a20"),
        ("a b", "b"),
        ("a b20", "a+b20"),
        ("a b20 b50", "a+b50"),
        ("a b20 b", "b"),
        ("a b20 c20", "a+c20"),
        ("a <", "configured"),
        ("a20 <", "configured"),
        ("a b20 <", "a"),
        ("a b <", "a"),
        ("a b20 b <", "a"),
        ("a b20 b < <", "configured"),
        ("a b c < <", "a"),
        ("a b < c", "c"),
        ("a b < c <", "a"),
    ],
)
def test_model_after_steps(steps: str, expected: str) -> None:
    assert served(after(*steps.split())) == expected


def test_revisions_rise_with_every_change_and_stay_above_those_of_cards() -> None:
    models = after("a", "b20", "b", "<", "<")
    revisions = [one.revision for one in reversed(models.deployments)]
    assert revisions == list(range(FIRST_REVISION, FIRST_REVISION + 5))
    largest = max(m.le for m in ModelCard.model_fields["revision"].metadata if hasattr(m, "le"))
    assert largest < FIRST_REVISION


@pytest.mark.parametrize("steps", ["", "a <", "a b < <"])
def test_nothing_before_the_configured_model(steps: str) -> None:
    with pytest.raises(InputError, match="nothing before"):
        deployment.rollback(after(*steps.split()), "test")


def test_old_deployments_are_dropped_and_rolling_back_to_them_names_the_remedy() -> None:
    models = after("a", *(f"b{percent}" for percent in range(1, KEPT_DEPLOYMENTS + 2)))
    assert len(models.deployments) == KEPT_DEPLOYMENTS
    with pytest.raises(InputError, match=f"revision {FIRST_REVISION} is not among .* apply its"):
        deployment.rollback(models, "test")


def test_candidates_lead_from_the_newest_to_what_it_rolls_back_to() -> None:
    models = after("a", "b", "<", "c", "d20")
    versions = [one.revision - FIRST_REVISION for one in models.candidates(above=0)]
    assert versions == [4, 3, 2]  # neither b, which was rolled back, nor the first a


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("/models/a", "models/a"), "relative path"),
        (("/models/a", "s3://models/a"), "no local folder"),
        (('"card.json"', '"other.json"'), "must have card.json"),
        ((f'"revision":{FIRST_REVISION}', '"revision":5'), "greater than or equal to 1000"),
        (('"canary_percent":0', '"canary_percent":20'), "need each other"),
        (('"applied_by"', '"unknown_field"'), "Extra inputs"),
    ],
)
def test_invalid_record_is_refused_with_the_field(change: tuple[str, str], problem: str) -> None:
    value = after("a").model_dump_json()
    assert change[0] in value
    with pytest.raises(InputError, match=problem):
        UserModels.parse(value.replace(*change).encode())


def test_canary_share_grows_without_moving_users_back() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    shares = {
        percent: {user for user in users if in_canary(user, "b", percent)}
        for percent in (1, 20, 50, 99)
    }
    for percent, chosen in shares.items():
        assert len(chosen) / len(users) == pytest.approx(percent / 100, abs=0.012)
    assert shares[1] < shares[20] < shares[50] < shares[99]
    others = {user for user in users if in_canary(user, "c", 20)}
    assert len(others & shares[20]) / len(users) == pytest.approx(0.04, abs=0.01)
    assert in_canary("\ud800", "b", 99) in (True, False)  # an id may hold a lone surrogate


def test_reference_names_the_files_as_they_were(tmp_path: Path) -> None:
    folder = copy_model(tmp_path, "shop 2")
    made = deployment.reference_to(str(folder))
    assert (made.version, made.path) == ("shop 2", folder)
    made.verify()
    for name in (CARD, WEIGHTS, VOCABULARY):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(InputError, match="SHA-256 is not"):
            made.verify()
        (folder / name).write_bytes(content)
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match="not the file that card"):
        deployment.reference_to(str(folder))
    (folder / WEIGHTS).unlink()
    for check in (made.verify, lambda: deployment.reference_to(str(folder))):
        with pytest.raises(InputError, match=r"No such file|is missing"):
            check()


def test_published_schema_is_that_of_the_record() -> None:
    published = json.loads((ROOT / "schemas/user-models.schema.json").read_text("utf-8"))
    schema = UserModels.model_json_schema()
    assert {name: published[name] for name in schema} == schema
    assert set(published) - set(schema) == {"$schema", "$id"}
