"""Walk-forward evaluation of continued training."""

from datetime import datetime

import pytest

from lab.user_model.walk_forward import walk_forward
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS
from tests.unit.models.profile.miniature import FIRST_DAY_MS, SHORT, write_trained_shop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_trained_shop(tmp_path_factory.mktemp("walk"))


def test_walk_forward_reports_every_week(shop):
    weeks = walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 2, 12), 3)
    assert [week["week"] for week in weeks] == ["2017-02-12", "2017-02-19", "2017-02-26"]
    assert all(week["events"] and 0 <= week["category"]["frozen"] <= 1 for week in weeks)


def test_walk_forward_rejects_weeks_that_the_model_was_trained_on(shop):
    with pytest.raises(InputError, match="trained on windows after 2017-01-10"):
        walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 1, 10), 1)


def test_walk_forward_ranks_each_week_before_training_on_it(shop, monkeypatch):
    """Events of a week and later ones cannot change how the week is ranked."""
    trained_until_ms = []

    def continue_training(recipe, streams, model, since_ms, until_ms, random):
        trained_until_ms.append(until_ms)
        return model

    monkeypatch.setattr("lab.user_model.walk_forward._continue_training", continue_training)
    weeks = walk_forward(SHORT, shop / "all", shop / "model", datetime(2017, 2, 12), 2)
    starts = [datetime.fromisoformat(week["week"]) for week in weeks]
    assert [ms / DAY_MS - FIRST_DAY_MS / DAY_MS for ms in trained_until_ms] == [
        (start - datetime(2017, 1, 1)).days for start in starts
    ]
    assert all(week["category"]["continued_over_frozen"] == [0, 0, 0] for week in weeks)
