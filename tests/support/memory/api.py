"""What the read API and the console stand on, in memory: Cassandra, Kafka, keys, and rows."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import orjson
import pytest

from intake.files.rejected import RejectedRecord
from liveprofile.attributes.statements import Statement
from liveprofile.rows.operations import AuditEntry
from liveprofile.rows.risk import flag_bucket, score_hour_ms
from liveprofile.rows.users import segment_bucket
from liveprofile.settings import load
from liveprofile.storage import cql as product_cql
from liveprofile.storage.queries import StoredFlag, StoredScore
from serve.keys import NewKey, Scopes, new_key, write_key
from serve.store.statements import RawDelta, RawProfile
from serve.store.store import Store
from services.alerts.case_store import AlertCase
from services.audit_trail import _entry
from services.trends.count_store import Series
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.memory.kafka import MemoryKafka, replace_everywhere
from tests.support.memory.tables import Row

NOW_MS = 1_511_658_300_000  # 2017-11-26 01:05:00 UTC
MINUTE_MS = 60_000
DAY_S = 86_400
HEADERS = ("partition", "offset", "truncated")


class MemoryApi:
    def __init__(self) -> None:
        self.session, self.kafka, self.settings = MemoryCassandra(), MemoryKafka(), load()
        self.keys: list[NewKey] = []

    def install(self, monkeypatch: pytest.MonkeyPatch, now_ms: Any = lambda: NOW_MS) -> Self:
        """Replaces what reaches Kafka, and the clock of the product's functions."""
        self.kafka.install(monkeypatch)
        replace_everywhere(monkeypatch, {product_cql.now_ms: now_ms})
        return self

    def store(self, **serve: Any) -> Store:
        own = self.settings.serve.model_copy(update=serve)
        return Store.on(self.session, self.settings.model_copy(update={"serve": own}))

    def add_key(self, scopes: Scopes, name: str = "anna") -> NewKey:
        made = new_key(name, scopes, "test", NOW_MS, DAY_S)
        write_key(self.session, made.stored, NOW_MS)
        self.keys.append(made)
        return made

    @property
    def audit(self) -> list[AuditEntry]:
        """The entries in the order in which they were started."""
        cells = self.session.cells["api_audit"].values()
        return [
            _entry(SimpleNamespace(**{name: cell.value for name, cell in of_entry.items()}))
            for of_entry in cells
        ]

    def clear(self, *tables: str) -> None:
        for table in tables:
            self.session.cells[table].clear()

    def put(self, *rows: NamedTuple) -> None:
        """Stores rows as the job does, whatever they are of."""
        for row in rows:
            for table, columns in _TABLES[type(row)](row):
                self.session.put(table, columns)

    def put_members(self, segment: str, *users: str) -> None:
        for user in users:
            since = {"segment": segment, "user_id": user, "since": NOW_MS}
            self.session.put("segment_member", since | {"bucket": segment_bucket(user)})
            reason = {"member": True, "version": 1, "reason": '{"cause":"window"}'}
            self.session.put("user_segment", since | reason)

    def put_counts(
        self, series: Series, span: str, counts: Mapping[int, tuple[int, float]]
    ) -> None:
        """counts: events and amount by start. Everything until NOW_MS is counted."""
        topic = self.settings.topics.events
        clocks = {0: NOW_MS + self.settings.window.out_of_orderness_ms}
        chunk = {"topic": topic, "number": 1, "done": True, "first": {0: 0}, "end": {0: 9}}
        self.session.put("trend_chunk", chunk | {"clocks": clocks})
        key = {"topic": topic, "span": span} | series._asdict()
        for start_ms, (events, amount) in counts.items():
            count = {"start": start_ms, "events": events, "amount": amount, "users": events}
            self.session.put("trend", key | count | {"chunk": 1})

    def reject(self, *records: RejectedRecord) -> None:
        """Sends records to the topic of rejected ones, which gives them ids: 0:0, 0:1, ..."""
        for each in records:
            headers = {name: str(getattr(each, name)).lower() for name in HEADERS}
            headers |= {"topic": each.topic, "reason": each.reason, "detail": each.detail}
            self.kafka.send_all(
                None, self.settings.topics.rejected, [(None, each.payload, headers)]
            )


def _columns(row: Any, **changed: Any) -> Row:
    named = {name.removesuffix("_ms"): value for name, value in row._asdict().items()}
    return {name: value for name, value in (named | changed).items() if value is not None}


def _day(time_ms: int) -> Any:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).date()


def _profile(row: RawProfile) -> list[tuple[str, Row]]:
    names = ("user_id", "window_end", "segments", "embedding")
    columns = _columns(row)
    copied = {name: columns[name] for name in names if name in columns}
    return [("user_profile", columns), ("user_lookalike", copied)]


def _score(row: StoredScore) -> list[tuple[str, Row]]:
    hour = {"user_id": row.user_id, "hour": score_hour_ms(row.event_time_ms)}
    return [("risk_score_by_hour", _columns(row) | hour), ("risk_score_hours", hour)]


def _flag(row: StoredFlag) -> list[tuple[str, Row]]:
    texts = {name: orjson.dumps(getattr(row, name)).decode() for name in ("evidence", "reasons")}
    columns = _columns(row, **texts)
    day = {"day": _day(row.window_end_ms), "bucket": flag_bucket(row.user_id)}
    return [("risk_flag", columns), ("risk_flag_by_day", columns | day)]


def _case(row: AlertCase) -> list[tuple[str, Row]]:
    columns = _columns(row, state="open" if row.is_open else "closed", is_open=None)
    return [("risk_case", columns)]


def _statement(row: Statement) -> list[tuple[str, Row]]:
    values = orjson.dumps(dict(row.values), option=orjson.OPT_SORT_KEYS).decode()
    key = {"user_id": row.user_id, "source": row.source, "time": row.time_ms, "digest": row.digest}
    rest = {"kind": row.kind, "purpose": row.purpose, "expires": row.expires_ms}
    return [("user_attribute", key | rest | {"attributes": values})]


_TABLES = {
    Statement: _statement,
    RawProfile: _profile,
    RawDelta: lambda row: [("profile_delta", _columns(row))],
    StoredScore: _score,
    StoredFlag: _flag,
    AlertCase: _case,
}
