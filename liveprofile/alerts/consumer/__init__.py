"""A Kafka consumer that passes each risk alert to handlers (docs/alerts.md).

consumer = AlertConsumer.connect(settings, [OpenCase(session, ttl_s)], session)
with stop_on_signals(consumer):
    consumer.run()
"""

from liveprofile.alerts.consumer.alert import Alert
from liveprofile.alerts.consumer.handlers import Accounts, OpenCase, RestrictAccount
from liveprofile.alerts.consumer.loop import (
    AlertConsumer,
    AlertRefusedError,
    Handler,
    RetryPolicy,
    stop_on_signals,
)
from liveprofile.alerts.consumer.webhook import Webhook
from liveprofile.rules.flags import Severity

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
