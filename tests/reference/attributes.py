"""docs/data-contract.md in plain Python: a user's attributes, from all records of the topic."""

from typing import Any

RANK = {"third_party": 0, "declared": 1, "verified": 2}


def attributes_at(
    events: list[dict[str, Any]], user_id: str, at: str, purposes: set[str]
) -> dict[str, tuple[Any, str]]:
    """Value and source of each attribute. events: CloudEvents in any order, with copies.

    Times are RFC 3339 texts of one form, so they compare as texts.
    """
    by_source: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["data"]["user_id"] == user_id:
            by_source.setdefault(event["source"], []).append(event)
    candidates: dict[str, list[tuple[str, int, str, Any]]] = {}
    for source, said in by_source.items():
        newest = max(event["time"] for event in said)
        said = [event for event in said if event["time"] == newest]
        best_kind = max(RANK[event["data"]["kind"]] for event in said)
        said = [event for event in said if RANK[event["data"]["kind"]] == best_kind]
        assert len({repr(sorted(e["data"].items(), key=str)) for e in said}) == 1, (
            "contradictions of one source, time and kind have no rule here"
        )
        data = said[0]["data"]
        if data["expires"] > at and data["purpose"] in purposes:
            for name, value in data["attributes"].items():
                candidates.setdefault(name, []).append((newest, RANK[data["kind"]], source, value))
    return {
        name: (max(each, key=lambda one: one[:3])[3], max(each, key=lambda one: one[:3])[2])
        for name, each in candidates.items()
    }
