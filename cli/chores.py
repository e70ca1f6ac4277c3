"""`liveprofile serve chores`: runs what must be run again and again."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cassandra.cluster import Session

from cli.common import Call
from intake.files.replay import Heartbeats, ReplayProducer
from liveprofile.attributes.catalogue import read_catalogue
from liveprofile.attributes.table import AttributeTable, apply_records
from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.settings import Settings
from liveprofile.storage.connection import connect
from liveprofile.storage.cql import now_ms
from offline.late_windows import run as late_windows
from services.chores import Chore, Chores, ChoreStore, Warnings, intervals_s
from services.event_audit.run import run_audit
from services.privacy.erasures import PendingErasures
from services.privacy.withdrawals import forbidden_rows
from services.segments import sweep_all
from services.trends.count_store import CountStore
from services.trends.update import update

log = logging.getLogger("liveprofile.chores")

CONNECT_RETRY_S = 5.0  # until Cassandra and its tables are there


def serve_chores(call: Call) -> None:
    """Runs the chores of the settings until SIGTERM or Ctrl-C."""
    settings, warnings = call.settings, Warnings()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            session = connect(settings.cassandra)
            break
        except ServiceError as error:
            warnings.log(f"{error}; trying again every {CONNECT_RETRY_S:g} s")
            time.sleep(CONNECT_RETRY_S)
    acts, intervals = chore_acts(settings, call.file, session), intervals_s(settings).items()
    chores = [Chore(name, every_s, acts[name]) for name, every_s in intervals]
    Chores(chores, ChoreStore(session, settings)).run()


def chore_acts(
    settings: Settings, config: Path | None, session: Session
) -> dict[str, Callable[[], Any]]:
    """What each chore does, by its name in the settings; config: their file."""
    return {
        "heartbeat": Heartbeats(partial(ReplayProducer, settings, settings.topics.events)).send,
        "erasures": partial(PendingErasures(settings).carry_out, session),
        "attributes": partial(_attributes, settings, session),
        "trends": partial(_trends, settings, session),
        "late": partial(late_windows.run, settings, config, (), None, log.info),
        "audit": partial(_audit, settings),
        "consents": partial(forbidden_rows, settings, session, delete=True, progress=_silent),
        "sweep": lambda: sweep_all(settings, session, now_ms()),
    }


def _attributes(settings: Settings, session: Session) -> None:
    catalogue = read_catalogue(settings)
    write = AttributeTable(session, settings.cassandra).write
    reject = partial(log.warning, "attributes: %s is skipped")
    apply_records(settings, catalogue, write, reject)


def _trends(settings: Settings, session: Session) -> None:
    if lost := update(CountStore(session, settings), settings).lost:
        raise LiveprofileError(f"{lost} records expired uncounted, or the topic was made anew")


def _audit(settings: Settings) -> None:
    if not (found := run_audit(settings, new=True)).ok:
        raise LiveprofileError(f"not every record is accounted for: {found.report.counts}")


def _silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that is shown to nobody."""
