"""Windows of an hour with flags, as rows to store."""

import numpy as np
import orjson

from liveprofile.rules.flags import Flag
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.units import HOUR_MS
from models.profile.model_card import ModelCard
from tests.support.rows.console_rows import FEATURES, known_delta, known_profile
from tests.support.rows.profile_rows import flag, profile_row
from udfs.profile.rows import ProfileRow
from udfs.profile.store import CassandraProfileStore


def row_of(user_id: str, end_ms: int, hours_ago: int, dim: int, *flags: Flag) -> ProfileRow:
    """A window of an hour that ended so many hours before `end_ms`."""
    stored, delta = known_profile(user_id), known_delta(hours_ago)
    direction = np.zeros(dim, np.float32)
    direction[:3] = (1, hours_ago, len(user_id))
    return profile_row(
        user_id,
        window_start_ms=end_ms - (hours_ago + 1) * HOUR_MS,
        window_end_ms=end_ms - hours_ago * HOUR_MS,
        profile=stored.profile.encode(),
        delta=delta.delta.encode(),
        churn=orjson.loads(delta.delta)["after"]["churn"],
        recency_days=FEATURES["recency_days"],
        segments=["loyal"],
        embedding=direction / np.linalg.norm(direction),
        write_lookalike=True,
        flags=list(flags),
    )


def spike(user_id: str, number: int) -> Flag:
    return flag("spend_spike", flag_id=f"{user_id}-{number}", message=f"{user_id} spent much")


def store_windows(settings: Settings, end_ms: int, *users: str) -> None:
    """Stores a window with a flag of each user, as the job of these settings does."""
    dim = ModelCard.read(settings.model.checkpoint).shape["embedding"]
    with open_session(settings.cassandra) as session:
        sink = CassandraProfileStore(settings.cassandra, dim, session)
        sink.writer.write([row_of(user, end_ms, 0, dim, spike(user, 0)) for user in users])
        sink.writer.flush()
