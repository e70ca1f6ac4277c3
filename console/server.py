"""Runs the console with the server of the read API and its limits."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from console.app import create_console
from console.job import FlinkJobReader
from liveprofile.resources import product_path
from liveprofile.settings import Settings
from serve.explainer import Explainer
from serve.server import SWITCH_INTERVAL_S, listen, server_of, url_of
from serve.store.store import Store


def run_console(
    settings: Settings, started: Callable[[str], None], explainer: Explainer | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C. `started` gets the URL when the server listens.

    Raises ConfigError for a bad certificate, ServiceError if the address is taken.
    """
    own = settings.serve.model_copy(update={"port": settings.serve.console_port})
    store = Store(settings)
    models = {
        "user model": product_path(settings.model.checkpoint),
        "fraud model": product_path(settings.scoring.checkpoint),
    }
    app = create_console(
        own,
        store,
        FlinkJobReader(settings),
        models,
        running=store.running,
        attributes=settings.attributes,
        explainer=explainer,
    )
    server = server_of(app, own)
    # uvicorn stops at SIGTERM and then passes it on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with listen(own) as listening:
        started(url_of(own, listening))
        server.run(sockets=[listening])
