"""Cards and curves of models in the console."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

from console.routes.models import curves

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
