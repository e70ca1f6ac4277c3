"""How fast a sweep applies segments to all stored users while the job runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import orjson

from benchmarks.support import runs
from liveprofile.resources import product_path
from liveprofile.segments.features import PROFILE_FEATURES
from liveprofile.segments.segments import SegmentSet, read_segments
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.units import DAY_MS
from models.profile.model_card import ModelCard
from offline.sweep import run_sweep
from stack.local import Stack
from udfs.profile.rows import ProfileRow
from udfs.profile.store import CassandraProfileStore

END_MS = 1_700_000_000_000
WRITE_ROWS = 500


def segments(stack: Stack, users: int) -> dict[str, Any]:
    """Back-fills the shipped segments over `users` profiles, sweeps again, then 31 days later.

    The first sweep changes nearly every user, the second none, the third those who bought lately.
    """
    with runs.running_job(stack, "whole", "segments", None) as job:
        settings = job.settings
        runs.log_progress(f"storing {users} profiles")
        store_profiles(settings, users)
        found = read_segments(product_path(settings.segments))
        return {
            "users": users,
            "segments": len(found.segments),
            "sweeps": {
                name: _sweep(settings, found, END_MS + days * DAY_MS)
                for name, days in (("back_fill", 0), ("unchanged", 0), ("after_31_days", 31))
            },
        }


def _sweep(settings: Settings, found: SegmentSet, time_ms: int) -> dict[str, Any]:
    with open_session(settings.cassandra) as session:
        result = run_sweep(settings, session, found, time_ms)
    runs.log_progress(f"swept {result.counts.users} users in {result.seconds:.1f} s")
    return {
        "seconds": round(result.seconds, 1),
        "users_per_s": round(result.counts.users / result.seconds),
        "changes": result.entered + result.left,
    }


def store_profiles(settings: Settings, users: int) -> None:
    """Stores profiles of the size that the job writes."""
    dim = ModelCard.read(settings.model.checkpoint).shape["embedding"]
    sink = CassandraProfileStore(settings.cassandra, dim)
    try:
        rows = _profiles(users, dim)
        while batch := list(islice(rows, WRITE_ROWS)):
            sink.writer.write(batch)
            sink.writer.flush()
    finally:
        sink.close()


def _profiles(users: int, dim: int) -> Iterator[ProfileRow]:
    rng = np.random.default_rng(1)
    shares = {f"category {n}": 0.1 for n in range(10)}
    embedding = np.ones(dim, np.float32) / np.sqrt(dim)
    for user in range(users):
        purchases = int(rng.poisson(6))
        features = dict.fromkeys(PROFILE_FEATURES, 1.25) | {
            "windows": float(rng.integers(1, 40)),
            "events": float(rng.integers(1, 200)),
            "purchases": float(purchases),
            "purchase_windows": float(purchases),
            "purchase_amount_mean": float(rng.integers(5, 200)),
            "recency_days": round(float(rng.exponential(25)), 6) if purchases else None,
            "churn": round(float(rng.random()), 6),
        }
        profile = {
            "features": features,
            "used_coupon": bool(rng.random() < 0.1),
            "activity_hour": [0.0417] * 24,
            "activity_weekday": [0.1429] * 7,
            "category_affinity": shares,
            "interests": shares,
            "next_items": [f"item {n}" for n in range(10)],
            "last": {"device": "d", "channel": "web", "place": None, "tags": []},
        }
        yield ProfileRow(
            user_id=f"user {user}",
            window_start_ms=END_MS - 300_000,
            window_end_ms=END_MS,
            model_version="benchmark",
            feature_version=1,
            revision=1,
            churn=features["churn"],
            expected_spend=1.25,
            surprise=1.0,
            recency_days=features["recency_days"],
            purchases_decayed=1.25,
            amount_decayed=1.25,
            segments=[],
            profile=orjson.dumps(profile),
            embedding=embedding,
            events=3,
            amount=1.25,
            embedding_distance=0.0,
            active_rules=[],
            delta=b"{}",
            digests=b"",
            events_total=10,
            write_lookalike=False,
            flags=[],
        )
