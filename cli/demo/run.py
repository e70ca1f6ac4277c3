"""The demo from start to end: stack, job, replay with a live view, tour."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.common import config_file
from cli.demo import ring, scene, view
from cli.demo.open_console import Opened, open_console
from cli.demo.watch import send_and_watch
from cli.submission import submit_job
from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.jobs import only_job
from liveprofile.settings import CONFIG_VARIABLE
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import read
from models.profile.model_card import ModelCard
from services.event_audit.run import COUNTS, run_audit
from stack import DEFAULT_ROOT
from stack.local import Stack

JOB_START_TIMEOUT_S = 600.0  # on a busy machine everything takes several times as long


class Steps:
    """Runs steps one after the other. seconds: the duration of each step, by name."""

    def __init__(self, console: Console):
        self._console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(
        self, name: str, doing: str, log: Path, done: str = "", spinner: bool = True
    ) -> Iterator[None]:
        """Runs the body of the `with` statement as one step, and prints `done` if it is given.

        doing: shown while the step runs. log: named in the error message.
        Raises errors of services and files as a LiveprofileError of the same class whose message is
        one line with the step and the log.
        """
        started_s = time.monotonic()
        try:
            with self._console.status(doing) if spinner else nullcontext():
                yield
        except LiveprofileError as error:
            raise type(error)(one_line(error, doing, log)) from None
        except OSError as error:
            raise ServiceError(one_line(error, doing, log)) from None
        duration_s = self.seconds[name] = round(time.monotonic() - started_s, 1)
        if done:
            self._console.print(f"✓ {done} ({duration_s:.1f} s)", soft_wrap=True)


def one_line(error: Exception, doing: str, log: Path) -> str:
    """Formats an error as `<step>: <first line>; log: <path>`, unless the line names a log."""
    line = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
    return f"{doing}: {line}" + ("" if ".log" in line else f"; log: {log}")


def run(
    stack: Stack,
    console: Console,
    *,
    stays: bool,
    every_nth_household: int = scene.EVERY_NTH_HOUSEHOLD,
) -> dict[str, Any]:
    """Runs the demo and returns its summary; `ok` is the verdict.

    `stays`: the stack keeps running, so the next commands are printed too.
    Raises LiveprofileError: one line with the step and its log.
    """
    started_s = time.monotonic()
    steps = Steps(console)
    up = "Kafka, Cassandra and Flink are up"
    with (
        ThreadPoolExecutor(1) as pool,
        steps.step("stack", "starting Kafka, Cassandra and Flink", stack.root, up),
    ):
        preparing = pool.submit(scene.purchases, stack.root / "demo", every_nth_household)
        stack.start()
        purchases = preparing.result()
    file, settings = scene.write_settings(stack)
    horizon_days = ModelCard.read(settings.model.checkpoint).horizon_days
    with steps.step("clear", "clearing up", stack.jobmanager.log, "earlier demos are removed"):
        scene.clear(settings)
    running = "the job is running and its model is warm"
    with steps.step("submit", "submitting the job", stack.jobmanager.log, running):
        job_id, _ = submit_job(only_job(settings), file)
        rest.wait_until_running(settings.flink.rest_url, job_id, JOB_START_TIMEOUT_S)
    with open_session(settings.cassandra) as session:
        about = f"{purchases.rows:,} purchases of {purchases.households} households"
        console.print(view.heading(f"A year of groceries: {about} through Kafka, at full speed"))
        with steps.step("replay", "replaying", stack.taskmanager.log, spinner=False):
            last = send_and_watch(console, session, settings, purchases, job_id)
        with steps.step("audit", "auditing", stack.kafka.log, spinner=False):
            account = run_audit(settings).report.counts
        users = sorted(row.user_id for row in read(session, "SELECT user_id FROM user_profile"))
        flags = [flag for user in users for flag in queries.flags(session, user)]
        latest = [
            (queries.profile(session, user), queries.deltas(session, user, 1)) for user in users
        ]
        changes = view.largest_changes((profile, delta) for profile, [delta] in latest)
    console.print(view.tour(changes, flags, account, horizon_days))
    about = f"Simulated fraud ring: {ring.USERS} accounts on {ring.DEVICES} devices start to buy"
    console.print(view.heading(about))
    with steps.step("ring", "sending the ring's purchases", stack.taskmanager.log):
        alerts = ring.send_ring(settings, last.closed_ms)
    console.print(view.ring(alerts))
    opened: Opened | None = None
    if stays:
        # The settings file names the demo's keyspace now.
        with steps.step("api", "starting the read API", stack.api.log):
            stack.api.stop()
            stack.api.start()
        user = changes[0].profile.user_id if changes else "USER"
        with steps.step("console", "starting the console", stack.console.log):
            opened = open_console(stack.console, settings, last.closed_ms, user)
        console.print(view.console_access(opened))
        title = "The stack and the job keep running; commands to try"
        console.print(view.pairs(title, _next(stack, file, user)))
    return {
        "ok": account.ok and last.profiles > 0 and bool(flags),
        "households": purchases.households,
        "purchases": purchases.rows,
        "profiles": last.profiles,
        "flags": len(flags),
        "shown": [one.profile.user_id for one in changes],
        "ring": {
            "users_flagged": alerts.users_flagged,
            "first_alert_ms": round(alerts.first_alert_ms),
        },
        "audit": {name: getattr(account, name) for name in COUNTS},
        "config": str(file),
        "console": opened and opened.url,
        "flink": stack.rest_url,
        "seconds": steps.seconds | {"total": round(time.monotonic() - started_s, 1)},
    }


def _next(stack: Stack, file: Path, user: str) -> list[tuple[str, str]]:
    found = config_file(None)
    is_found = found is not None and found.resolve() == stack.config_file
    export = (f"export {CONFIG_VARIABLE}={file}", "makes these commands use the demo's stack")
    is_default = stack.root == DEFAULT_ROOT.resolve()
    stop = "make down" if is_default else f"python -m stack stop --root {stack.root}"
    exports = [] if is_found else [export]
    return [
        ("source .venv/bin/activate", "makes `liveprofile` a command"),
        *exports,
        (f"liveprofile profile show {user} --similar 5", "a household's profile, and similar ones"),
        (f"liveprofile profile deltas {user}", "what its latest days changed"),
        ("liveprofile risk alerts list", "the latest risk flags"),
        ("liveprofile risk alerts --follow", "alerts as they arrive"),
        (f"curl {stack.api.url}/v1/users/{user}", "the same profile over HTTP (docs/api.md)"),
        ("liveprofile job status", "state, rates and lag of the job"),
        (stack.rest_url, "Flink's web interface"),
        (stop, "stop everything, the console too; `make demo` starts over"),
    ]
