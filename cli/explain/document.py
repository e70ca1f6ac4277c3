"""An explanation as JSON, of the command line and of the read API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liveprofile.storage.queries import StoredDelta

if TYPE_CHECKING:
    from offline.occlusion import WindowEffects


def as_document(effects: WindowEffects, delta: StoredDelta) -> dict[str, Any]:
    """All events of a stored window in order of time, with their effects.

    liveprofile.client.explanation_models describes the fields.
    """
    before = delta.delta.get("before") or {}
    return {
        "user_id": delta.user_id,
        "window_start_ms": delta.window_start_ms,
        "window_end_ms": delta.window_end_ms,
        "model_version": delta.model_version,
        "events": effects.events,
        "before": {name: before.get(name) for name in ("churn", "expected_spend")},
        "stored": effects.served._asdict(),
        "effects": [effect._asdict() for effect in effects.effects],
    }
