"""Cards and curves of models in the console."""

from __future__ import annotations

from collections.abc import Callable

from starlette.testclient import TestClient

Browse = Callable[..., TestClient]


def test_page_has_card_and_curves_of_each_model(browse: Browse) -> None:
    page = browse().get("/models").text
    assert "<dt>horizon days</dt><dd>30</dd>" in page
    assert "<dt>validation, churn, model, auc</dt>" in page
    assert page.count("<svg") == 4
    assert "The checkpoint is not on this machine" in page
