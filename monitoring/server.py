"""`/metrics` over HTTP."""

from __future__ import annotations

import hmac
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from liveprofile.errors import ConfigError
from liveprofile.loopback import is_loopback
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from monitoring.cassandra_source import CassandraSource
from monitoring.exporter import Exporter, Source
from monitoring.flink_source import read_flink
from monitoring.kafka_source import read_audit, read_kafka
from monitoring.topic_counts import REJECTION_REASONS, TopicCounter, alert_labels, rejection_labels
from serve.server import listen, server_of, url_of

INTERVAL_S = 5.0  # between two readings of a service

PATH = "/metrics"


class MetricsApp:
    """Answers PATH, to callers with the token if there is one."""

    def __init__(self, metrics: ASGIApp, token: str | None):
        self._metrics, self._token = metrics, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["path"] != PATH:
            await PlainTextResponse(f"see {PATH}\n", 404)(scope, receive, send)
        elif not self._is_allowed(scope):
            headers = {"WWW-Authenticate": "Bearer"}
            await PlainTextResponse("token missing or wrong\n", 401, headers)(scope, receive, send)
        else:
            await self._metrics(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self._token.encode())


async def _lifespan(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


def read_token(file: str) -> str | None:
    """The token in the file without white space around it; None without a file.

    Raises ConfigError if it cannot be read or is short.
    """
    if not file:
        return None
    try:
        token = Path(file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings metrics.token_file = {file!r}: {error}") from None
    if len(token) < 16:
        raise ConfigError(f"settings metrics.token_file = {file!r}: it needs 16 characters or more")
    return token


def serve_metrics(
    settings: Settings, audit_state: Path | None, started: Callable[[str], None]
) -> None:
    """Serves until SIGTERM or Ctrl-C. `started` gets the URL when the server listens.

    audit_state: the file of `liveprofile events audit --state`, if any.

    Raises ConfigError for a bad certificate or token, ServiceError if the address is taken.
    """
    limits = settings.serve.model_copy(update={"port": settings.metrics.port})
    token = read_token(settings.metrics.token_file)
    if not token and not is_loopback(limits.host):
        raise ConfigError(
            f"settings serve.host = {limits.host!r} is not loopback: it needs metrics.token_file"
        )
    topics, rules = settings.topics, read_rules(product_path(settings.rules)).rules
    # Rules and reasons are counted from 0 on.
    known = [(rule.id, rule.severity) for rule in rules]
    reasons = [(reason,) for reason in REJECTION_REASONS]
    counters = [
        TopicCounter(settings, topics.rejected, "records_rejected", rejection_labels, reasons),
        TopicCounter(settings, topics.alerts, "alerts", alert_labels, known),
    ]
    cassandra = CassandraSource(settings)
    reads = {
        "flink": partial(read_flink, settings),
        "kafka": partial(read_kafka, settings, counters),
        "cassandra": cassandra.read,
    }
    if audit_state is not None:
        reads["audit"] = partial(read_audit, settings, audit_state)
    exporter = Exporter([Source(name, INTERVAL_S, read) for name, read in reads.items()])
    registry = CollectorRegistry()
    registry.register(_Described(exporter))
    server = server_of(MetricsApp(make_asgi_app(registry), token), limits, "metrics")

    def stop() -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with closing(cassandra), listen(limits, "metrics") as listening:
        started(url_of(limits, listening) + PATH)
        with exporter.running(*(counter.follow for counter in counters), on_defect=stop):
            server.run(sockets=[listening])


class _Described:
    """The exporter without a scrape when it is registered."""

    def __init__(self, exporter: Exporter):
        self.collect = exporter.collect

    def describe(self) -> list[Any]:
        return []
