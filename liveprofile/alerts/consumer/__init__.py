"""Acting on risk alerts: a Kafka consumer that hands each alert to handlers (docs/alerts.md).

consumer = AlertConsumer.connect(settings, [OpenCase(session)], session)
with stop_on_signals(consumer):
    consumer.run()
"""

from liveprofile.alerts.consumer.alert import Alert, AlertData, Severity
from liveprofile.alerts.consumer.delivery import Handler, Refused, Retries
from liveprofile.alerts.consumer.handlers import Accounts, OpenCase, RestrictAccount
from liveprofile.alerts.consumer.loop import AlertConsumer, Counts, stop_on_signals
from liveprofile.alerts.consumer.webhook import Webhook

__all__ = [
    "Accounts",
    "Alert",
    "AlertConsumer",
    "AlertData",
    "Counts",
    "Handler",
    "OpenCase",
    "Refused",
    "RestrictAccount",
    "Retries",
    "Severity",
    "Webhook",
    "stop_on_signals",
]
