"""Opens the console on the data of the demo, with what else its pages show."""

import os
import sys
import time
import webbrowser
from typing import NamedTuple
from urllib.parse import quote

from liveprofile.errors import ServiceError
from liveprofile.settings import Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from serve.keys import ADMIN, new_key, write_key
from services.campaigns import campaigns
from services.campaigns.request import CampaignRequest
from services.trends.count_store import CountStore
from services.trends.update import update
from stack.local import HttpServer

KEY_NAME, KEY_TTL_S = "demo", 30 * 86_400
CAMPAIGN, OUTCOME_DAYS, CONTROL_SHARE, CONTACT_COST = "example", 30, 0.3, 0.2


class Opened(NamedTuple):
    """`pages`: paths, and what they show."""

    url: str
    key: str  # of an admin
    in_browser: bool
    pages: list[tuple[str, str]]


def open_console(
    server: HttpServer,
    settings: Settings,
    closed_ms: int,
    user_id: str,
) -> Opened:
    """Starts the console, and opens it if this is a terminal with a display.

    closed_ms: end of the last closed window. Raises ServiceError.
    """
    with open_session(settings.cassandra) as session:
        update(CountStore(session, settings), settings)
        # Its outcomes are past, and nobody was contacted: its groups should not differ.
        start_ms = closed_ms - OUTCOME_DAYS * DAY_MS
        asked = CampaignRequest(control_share=CONTROL_SHARE, cost=CONTACT_COST, start_ms=start_ms)
        wish = campaigns.wish_of(CAMPAIGN, asked, start_ms)
        campaigns.plan(session, settings, wish, KEY_NAME, campaigns.requested_of(asked))
        made = new_key(KEY_NAME, ADMIN, "make demo", now_ms(), KEY_TTL_S)
        write_key(session, made.stored, now_ms())
    server.stop()  # the one of an earlier demo has its settings
    server.start()
    deadline_s = time.monotonic() + server.start_timeout_s
    while not server.answers("/health/ready"):  # it connects to Cassandra after it has started
        if time.monotonic() > deadline_s:
            raise ServiceError(f"the console does not reach Cassandra; log: {server.log}")
        time.sleep(0.2)
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    can_open = sys.stdout.isatty() and (has_display or sys.platform in ("darwin", "win32"))
    in_browser = can_open and webbrowser.open(server.url)
    return Opened(server.url, made.text, in_browser, pages(user_id))


def pages(user_id: str) -> list[tuple[str, str]]:
    return [
        ("/alerts", "the queue of alerts"),
        (f"/user?id={quote(user_id, safe='')}", "a household"),
        (f"/campaigns/{CAMPAIGN}", "a campaign and what it changed"),
        ("/operations?by=day", "job, audit, rejected records, trends"),
    ]
