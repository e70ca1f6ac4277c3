"""Value curves as a profile's JSON stores them."""

from typing import Any

from liveprofile.value_curves import KEY


def curve_document() -> dict[str, Any]:
    """A profile, or a delta, with curves of two horizons and three knots."""
    return {
        KEY: {
            "after_days": [0.0, 1.0, 7.0],
            "horizon_days": [30, 7],
            "churn": [[0.1, 0.2, 0.8], [0.4, 0.5, 0.9]],
            "expected_spend": [[30.0, 25.0, 5.0], [9.0, 8.0, 0.0]],
            "purchase_in_days": [[4.0, 5.0, 20.0], [4.0, 5.0, 7.0]],
        }
    }
