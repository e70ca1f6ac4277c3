"""The topics of users' decisions hold all that the tables of Cassandra hold, and all merges.

A topic that was deleted and created again would allow everything, and profile erased users. So
readers take a topic only with the record of WHOLE_KEY, which is sent after the topic was filled.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from cassandra.cluster import Session

from liveprofile.consent.changes import USERS_AT_ONCE, ttl_s
from liveprofile.errors import ServiceError
from liveprofile.kafka.topics import topic_ids
from liveprofile.rows.users import DECISION_TOPIC
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import execute, read
from liveprofile.storage.queries import scan_ring
from liveprofile.wire.user_records import WHOLE_KEY
from services.privacy.consents import send_consents
from services.privacy.erasure_log import scan_runs
from services.privacy.erasures import send_erasures
from services.privacy.user_topics import send

_CONSENTED = "SELECT DISTINCT user_id FROM user_consent"


def fill_topics(settings: Settings) -> dict[str, int]:
    """Fills each topic that is not the one of the last call; returns the users sent by topic.

    Needs topics and tables. Raises ServiceError; then call it again.
    """
    fills: dict[str, Callable[[Settings, Session], int]] = {
        settings.topics.consents: _fill_consents,
        settings.topics.erasures: _fill_erasures,
    }
    merges, sent = settings.topics.merges, {}
    if settings.merges.enabled:
        fills[merges] = _fill_nothing  # no table has them
    with open_session(settings.cassandra) as session:
        known = dict(read(session, "SELECT topic, topic_id FROM decision_topic"))
        insert = DECISION_TOPIC.insert(
            ttl_s(settings.topics.decisions_retention_ms), time="", mark="%s"
        )
        for topic, present in topic_ids(settings, fills).items():
            if topic == merges and known.get(topic, present) != present:
                raise ServiceError(f"topic {topic} has lost its merges: see docs/privacy.md")
            if known.get(topic) != present:
                sent[topic] = fills[topic](settings, session)
                send(settings, topic, [(WHOLE_KEY, b"{}")])
                execute(session, insert, (topic, present))
    return sent


def _fill_nothing(settings: Settings, session: Session) -> int:
    return 0


def _fill_consents(settings: Settings, session: Session) -> int:
    users, count = (row[0] for row in scan_ring(session, _CONSENTED)), 0
    while part := list(islice(users, USERS_AT_ONCE)):
        send_consents(settings, session, part)
        count += len(part)
    return count


def _fill_erasures(settings: Settings, session: Session) -> int:
    erased = {user: run.before_ms for user, run in scan_runs(session).items()}
    send_erasures(settings, erased)
    return len(erased)
