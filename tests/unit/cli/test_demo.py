"""The demo's output and settings, without a running stack."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console, RenderableType

from cli.demo import scene, view
from cli.demo.run import Steps, one_line
from liveprofile.errors import ConfigError, ServiceError
from liveprofile.settings import load
from liveprofile.storage.queries import StoredDelta, StoredFlag, StoredProfile
from liveprofile.units import DAY_MS
from services.event_audit.reconciliation import Reconciliation
from stack.local import Stack
from tests.support.rows.api_rows import stored_flag_of
from tests.support.rows.stored_rows import stored_profile
from udfs.profile.inputs import FEATURES

END_MS = 1_512_000_000_000 // DAY_MS * DAY_MS  # 2017-11-30


def rendered_text(renderable: RenderableType) -> str:
    console = Console(width=view.WIDTH, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def features(**values: float | None) -> dict[str, float | None]:
    return dict.fromkeys(FEATURES, 0.0) | {"windows": 20.0, "purchase_windows": 20.0} | values


def profile_and_delta(
    user: str, before: dict[str, Any], after: dict[str, Any], moved: list[Any] | None = None
) -> tuple[StoredProfile, StoredDelta]:
    change = {
        "before": features(**before),
        "after": features(**after),
        "moved_categories": moved or [],
        "window": {"counts": {"purchase": 3}},
    }
    profile = stored_profile(
        user_id=user,
        window_start_ms=END_MS - DAY_MS,
        window_end_ms=END_MS,
        churn=0.1,
        expected_spend=2.0,
        recency_days=0.5,
        amount_decayed=2.0,
        events_total=9,
        segments=["loyal"],
        profile={"interests": {"SOFT DRINKS": 0.25, "CHEESE": 0.002}},
    )
    delta = StoredDelta(
        user, END_MS - DAY_MS, END_MS, "m", 3, 1234.5, 0.1, 2.0, [], change, b"\0" * 24
    )
    return profile, delta


def flag(user: str, rule: str, severity: str, value: float) -> StoredFlag:
    return stored_flag_of(1, user)._replace(
        window_end_ms=END_MS,
        rule_id=rule,
        severity=severity,
        action="limit_trading",
        value=value,
        message="a message",
    )


def test_largest_changes_picks_one_user_per_kind():
    away = {"recency_days": 60.0, "churn": 0.6}
    found = [
        profile_and_delta("calm", {"recency_days": 2.0}, {}),
        profile_and_delta("back", away, {"churn": 0.2, "expected_spend": 500.0}),
        profile_and_delta("rich", {"expected_spend": 10.0}, {"expected_spend": 90.0}),
        profile_and_delta("new taste", {}, {}, [["CHEESE", 0.0, 0.5], ["PEARS", 0.5, 0.0]]),
    ]
    chosen = view.largest_changes(found)
    assert [one.profile.user_id for one in chosen] == ["back", "rich", "new taste"]


def test_strongest_flags_has_the_highest_value_of_each_rule():
    flags = [
        flag("1", "count", "medium", 9.0),
        flag("1", "amount", "high", 5.0),
        flag("2", "amount", "high", 8.0),
    ]
    shown = [(e.rule_id, e.user_id, e.value) for e in view.strongest_flags(flags)]
    assert shown == [("amount", "2", 8.0), ("count", "1", 9.0)]


def test_tour_fits_100_columns_and_shows_values_before_and_after():
    moved = [["A CATEGORY WITH A NAME THAT DOES NOT FIT ITS COLUMN", 0.001, 0.31]]
    found = profile_and_delta("77", {"churn": 0.384, "recency_days": None}, {"churn": 0.121}, moved)
    flags = [flag("77", "amount", "high", 9.0), flag("8" * 9, "n", "medium", 9.0)]
    shown = rendered_text(
        view.tour(view.largest_changes([found]), flags, Reconciliation(used=5), 30)
    )
    assert all(len(line) <= view.WIDTH for line in shown.splitlines())
    assert re.search(r"won't buy in 30 days +38% +12%", shown)
    assert re.search(r"days since last purchase +- +0", shown)
    assert re.search(r"a category with a.*<1% +31%", shown)
    assert "on 2017-11-29 it bought 3 products for 1,234.50" in shown
    assert "soft drinks 25%, cheese <1%" in shown
    assert "2 risk flags" in shown
    assert re.search(r"2017-11-29 +77 +high +a message +limit purchases", shown)
    assert "Every record is accounted for." in shown


def test_finished_step_prints_one_line_and_failed_step_names_log(tmp_path: Path, capsys):
    steps = Steps(Console(width=view.WIDTH))
    with steps.step("a", "doing a", tmp_path, "a is done"):
        pass
    assert re.fullmatch(r"✓ a is done \(\d+\.\d s\)\n", capsys.readouterr().out)
    assert list(steps.seconds) == ["a"]
    with (
        pytest.raises(ServiceError, match=r"^doing c: No such file; log: /x/b\.txt$"),
        steps.step("c", "doing c", Path("/x/b.txt")),
    ):
        raise OSError("No such file")
    own = ServiceError("kafka ended; the end of /x/kafka.log:\nline\nline")
    assert one_line(own, "up", Path("/y")) == "up: kafka ended; the end of /x/kafka.log"
    with (
        pytest.raises(ConfigError, match=r"^doing b: wrong; log: /x/b\.txt$"),
        steps.step("b", "doing b", Path("/x/b.txt"), "b is done"),
    ):
        raise ConfigError("wrong\nand much more")


def test_purchases_are_of_every_sixteenth_household(tmp_path: Path):
    found = scene.purchases(tmp_path)
    table = pq.read_table(found.file, columns=["household_id"])
    households = set(table["household_id"].to_pylist())
    assert (found.rows, found.households) == (table.num_rows, len(households)) == (83_925, 153)
    assert all(household % scene.EVERY_NTH_HOUSEHOLD == 0 for household in households)
    assert (tmp_path / "products.parquet").is_file()


def test_both_settings_files_name_demo_topics_tables_and_job(tmp_path: Path):
    stack = Stack(tmp_path)
    file, settings = scene.write_settings(stack)
    assert load(file) == load(stack.config_file) == settings
    assert settings.cassandra.keyspace == "liveprofile_demo"
    assert settings.topics.events == "demo-behavior-events"
    assert settings.job.name == scene.NAME
    assert settings.window.length_ms == DAY_MS
    assert settings.kafka.bootstrap_servers == stack.kafka.bootstrap_servers
