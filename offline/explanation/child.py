"""The process that computes an explanation for the read API or the console.

`python -m offline.explanation.child` reads a line of JSON (config, user_id, until_ms) and answers
as serve.explainer.Explainer says. It runs with the lowest priority, and ends with its group
when stdin does: then the server has ended, or the caller has left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOWEST_PRIORITY = 19
END_S = 30.0  # from SIGTERM to SIGKILL; at the lowest priority, cleaning up may take long


def main() -> None:
    os.nice(LOWEST_PRIORITY)
    # Libraries print on stdout, which is for the answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.buffer.readline())
    # An exception in the main thread ends what it waits for and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    answers.write(json.dumps(answer(request)).encode())
    answers.close()


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1 << 16):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(END_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`explanation`, `refused` with kind and detail, or `unavailable`."""
    from liveprofile.errors import ServiceError
    from liveprofile.settings import load
    from offline.explanation.run import (
        ExplanationRefused,
        as_document,
        explain,
        model_version,
        stored_delta,
    )

    config = None if request["config"] is None else Path(request["config"])
    try:
        settings = load(config)
        delta = stored_delta(settings, request["user_id"], request["until_ms"])
        if delta is None:
            raise ExplanationRefused("unknown-window", "no window of this user before this time")
        version = model_version(settings)
        effects = explain(settings, config, version, delta, lambda step: None)
    except ExplanationRefused as refused:
        return {"refused": {"kind": refused.kind, "detail": refused.detail}}
    except ServiceError as error:
        return {"unavailable": str(error)}
    return {"explanation": as_document(effects, delta)}


if __name__ == "__main__":
    main()
