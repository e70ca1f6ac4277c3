"""Sends records about users to the topics of their decisions: consents, erasures, merges."""

from collections.abc import Iterable

from liveprofile.kafka.records import send_all
from liveprofile.settings import Settings
from liveprofile.wire.user_records import CONTENT_TYPE


def send(settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> int:
    """Sends records with keys and values; returns their number. Raises ServiceError."""
    return send_all(settings, topic, ((*each, CONTENT_TYPE) for each in records))
