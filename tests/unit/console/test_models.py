"""Cards, curves and versions of models in the console."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from starlette.testclient import TestClient

from console.routes.models import CONFIGURED, curves, restores
from tests.unit.console.conftest import MemoryJob
from udfs.profile.deployment import (
    FILES,
    KEPT_DEPLOYMENTS,
    ModelReference,
    apply,
    rollback,
)

Browse = Callable[..., TestClient]


def test_page_has_card_and_curves_of_each_model(browse: Browse) -> None:
    page = browse().get("/models").text
    assert "<dt>horizon days</dt><dd>30</dd>" in page
    assert "<dt>validation, churn, model, auc</dt>" in page
    assert page.count("<svg") == 4
    assert "The checkpoint is not on this machine" in page


def test_curves_span_their_values_by_epoch() -> None:
    rows = [{"epoch": "1", "loss": "6.5"}, {"epoch": "2", "loss": "6.25"}, {"epoch": "3"}]
    [(name, chart)] = curves(rows)
    assert name == "loss"
    assert [label for label, _ in chart.y_ticks] == ["6.25", "6.38", "6.5"]
    assert [label for label, *_ in chart.x_ticks] == ["epoch 1", "epoch 2"]
    assert curves([]) == []


FETCH = {"X-Console": "fetch"}
APPLIED = datetime(2026, 11, 29, 12, tzinfo=UTC)


def reference(version: str) -> ModelReference:
    return ModelReference(version=version, folder="/models/shop", sha256=dict.fromkeys(FILES, "00"))


def test_rollback_to_the_settings_has_nothing_to_restore(browse: Browse, job: MemoryJob) -> None:
    first = apply(None, reference("shop-1"), None, "anna", APPLIED)
    canary = apply(first, reference("shop-2"), 20, "otto", APPLIED)
    job.models = rollback(rollback(canary, "olga"), "olga")
    found = list(map(restores, job.models.deployments))
    assert found == ["–", CONFIGURED, "revision 1000", CONFIGURED]
    part = browse().get("/models/versions/list", headers=FETCH).text
    assert f"<dt>active</dt><dd>{CONFIGURED}</dd>" in part


def test_page_shows_versions_and_who_applied_them(browse: Browse, job: MemoryJob) -> None:
    models = apply(None, reference("<shop>"), None, "anna", APPLIED)
    job.models = apply(models, reference("shop-2"), 20, "otto", APPLIED)
    browser = browse()
    assert 'data-part="/models/versions/list"' in browser.get("/models/versions").text
    part = browser.get("/models/versions/list", headers=FETCH).text
    assert "<dt>active</dt><dd>&lt;shop&gt;</dd>" in part
    assert "<dt>canary</dt><dd>shop-2 for 20 % of the users" in part
    assert part.index("revision 1000</td>") < part.index(f"{CONFIGURED}</td>")
    assert "<td>otto</td>" in part and "2026-11-29 12:00:00" in part
    assert f"last {KEPT_DEPLOYMENTS} deployments" in part


def test_empty_history_says_what_the_job_serves(browse: Browse) -> None:
    part = browse().get("/models/versions/list").text
    assert "No model was applied" in part and "<dt>canary</dt><dd>none</dd>" in part
    assert 'href="/models"' in part
