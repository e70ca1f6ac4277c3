"""A Kafka consumer that passes each risk alert to handlers (docs/alerts.md).

consumer = AlertConsumer.connect(settings, [OpenCase(session, ttl_s)], session)
with stop_on_signals(consumer):
    consumer.run()
"""

from liveprofile.rules.flags import Severity
from services.alerts.consumer.alert import Alert
from services.alerts.consumer.handlers import Accounts, OpenCase, RestrictAccount
from services.alerts.consumer.loop import (
    AlertConsumer,
    AlertRefusedError,
    Handler,
    RetryPolicy,
)
from services.alerts.consumer.webhook import Webhook
from services.signals import stop_on_signals

__all__ = [
    "Accounts",
    "Alert",
    "AlertConsumer",
    "AlertRefusedError",
    "Handler",
    "OpenCase",
    "RestrictAccount",
    "RetryPolicy",
    "Severity",
    "Webhook",
    "stop_on_signals",
]
