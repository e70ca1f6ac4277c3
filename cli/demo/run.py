"""The demo from start to end: stack, job, replay with a live view, tour."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cassandra.cluster import Session
from rich.console import Console, RenderableType
from rich.live import Live

from cli import audit
from cli.common import config_file
from cli.demo import ring, scene, view
from cli.demo.open_console import Opened, open_console
from cli.demo.scene import Purchases
from cli.demo.watch import JobWatcher, Snapshot
from liveprofile.errors import LiveprofileError, ServiceError, ServiceUnavailableError
from liveprofile.flink import rest
from liveprofile.ingest.replay import ReplayResult, replay
from liveprofile.settings import CONFIG_VARIABLE, Settings
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import read
from models.profile.model_card import ModelCard
from stack import DEFAULT_ROOT
from stack.local import Stack

# Generous: on a busy machine everything takes several times as long.
JOB_START_TIMEOUT_S = 600.0
STALL_S = 240.0  # the demo fails if no event is read or stored for so long
LOOK_EVERY_S = 0.7
PLAIN_LINE_EVERY_S = 5.0


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
    A demo that was interrupted during its replay resumes. Raises LiveprofileError: one line with
    the step and its log.
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
    job_id = scene.interrupted_job(stack, settings)
    sent: set[bytes] = set()
    if job_id:
        resumed = "the job of the interrupted demo still runs: resuming its replay"
        with steps.step("resume", "reading what was sent", stack.kafka.log, resumed):
            sent = scene.sent_payloads(settings)
    else:
        with steps.step("clear", "clearing up", stack.jobmanager.log, "earlier demos are removed"):
            scene.clear(settings)
        running = "the job is running and its model is warm"
        with steps.step("submit", "submitting the job", stack.jobmanager.log, running):
            job_id = scene.submit(file, settings, JOB_START_TIMEOUT_S)
        scene.remember_job(stack, job_id)
    with open_session(settings.cassandra) as session:
        about = f"{purchases.rows:,} purchases of {purchases.households} households"
        console.print(view.heading(f"A year of groceries: {about} through Kafka, at full speed"))
        with steps.step("replay", "replaying", stack.taskmanager.log, spinner=False):
            replayed = _Replay(session, settings, purchases, job_id, sent, horizon_days)
            last = replayed.shown_on(console)
        with steps.step("audit", "auditing", stack.kafka.log, spinner=False):
            account = audit.run_audit(settings)
        users = sorted(row.user_id for row in read(session, "SELECT user_id FROM user_profile"))
        flags = [flag for user in users for flag in queries.flags(session, user)]
        changes = view.largest_changes(_latest(session, users))
    console.print(view.tour(changes, flags, account, horizon_days))
    about = f"Simulated fraud ring: {ring.USERS} accounts on {ring.DEVICES} devices start to buy"
    console.print(view.heading(about))
    scene.forget_job(stack)  # the ring can be sent only once
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
        console.print(view.commands(_next(stack, file, user)))
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
        "audit": {name: getattr(account, name) for name in audit.COUNTS},
        "config": str(file),
        "console": opened and opened.url,
        "flink": stack.rest_url,
        "seconds": steps.seconds | {"total": round(time.monotonic() - started_s, 1)},
    }


class _Replay:
    """Sends in a thread of its own and watches the job meanwhile. `skip`: payloads to leave out."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        purchases: Purchases,
        job_id: str,
        skip: set[bytes],
        horizon_days: int,
    ):
        self._settings, self._purchases, self._job_id = settings, purchases, job_id
        self._skip, self._sent, self._horizon_days = skip, len(skip), horizon_days
        self._watcher = JobWatcher(session, settings)
        self._snapshot = self._watcher.look()

    def shown_on(self, console: Console) -> Snapshot:
        """Returns when every sent event is in a stored profile. Raises ServiceError."""
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(
                replay,
                self._purchases.file,
                scene.MAPPING,
                self._settings,
                close_windows=True,
                skip=self._skip,
                progress=self._count,
            )
            if console.is_terminal:
                # The progress bar moves between looks, so Live calls the renderer itself.
                with Live(console=console, get_renderable=self._picture, refresh_per_second=5):
                    for snapshot in self._looks(sending):
                        self._snapshot = snapshot
            else:
                self._print_lines(console, sending)
        return self._snapshot

    def _count(self, events: int) -> None:
        self._sent += events

    def _picture(self) -> RenderableType:
        return view.live(self._snapshot, self._sent, self._purchases.rows, self._horizon_days)

    def _print_lines(self, console: Console, sending: Future[ReplayResult]) -> None:
        started_s = time.monotonic()
        printed_s = -PLAIN_LINE_EVERY_S
        for snapshot in self._looks(sending):
            self._snapshot, now_s = snapshot, time.monotonic() - started_s
            if now_s - printed_s >= PLAIN_LINE_EVERY_S:
                console.print(view.plain_line(snapshot, self._sent, now_s), soft_wrap=True)
                printed_s = now_s
        console.print(view.plain_line(self._snapshot, self._sent, now_s), soft_wrap=True)

    def _looks(self, sending: Future[ReplayResult]) -> Iterator[Snapshot]:
        moved_s, before = time.monotonic(), self._snapshot
        while True:
            snapshot = self._watcher.look()
            yield snapshot
            if sending.done():
                everything = self._sent + sending.result().heartbeats
                if snapshot.used >= self._sent and snapshot.read >= everything:
                    return
            now_s = time.monotonic()
            if (snapshot.read, snapshot.used) != (before.read, before.used):
                moved_s, before = now_s, snapshot
            self._check(now_s - moved_s, snapshot)
            time.sleep(LOOK_EVERY_S)

    def _check(self, still_s: float, snapshot: Snapshot) -> None:
        rest_url = self._settings.flink.rest_url
        try:
            state = rest.job_state(rest_url, self._job_id)
        except ServiceUnavailableError:
            if still_s > STALL_S:
                raise
            return
        if state in rest.TERMINAL_STATES or still_s > STALL_S:
            failure = rest.root_exception(rest_url, self._job_id).splitlines()
            why = failure[0] if failure else "no failure is reported"
            raise ServiceError(
                f"{self._sent - snapshot.used} of {self._sent} purchases are in no profile,"
                f" nothing moved for {still_s:.0f} s, and the job is {state}: {why}"
            )


def _latest(
    session: Session, users: list[str]
) -> Iterator[tuple[queries.StoredProfile, queries.StoredDelta]]:
    for user in users:
        profile = queries.profile(session, user)
        deltas = queries.deltas(session, user, 1)
        if profile and deltas:
            yield profile, deltas[0]


def _next(stack: Stack, file: Path, user: str) -> list[tuple[str, str]]:
    program = _program()
    found = config_file(None)
    finds_it = found is not None and found.resolve() == stack.config_file
    export = (f"export {CONFIG_VARIABLE}={file}", "makes these commands use the demo's stack")
    is_default = stack.root == DEFAULT_ROOT.resolve()
    stop = "make down" if is_default else f"python -m stack stop --root {stack.root}"
    return [
        *([] if finds_it else [export]),
        (f"{program} profile show {user} --similar 5", "a household's profile and those like it"),
        (f"{program} profile deltas {user}", "what its latest days changed"),
        (f"{program} profile flags", "the latest risk flags"),
        (f"{program} risk alerts --follow", "alerts as they arrive"),
        (f"curl {stack.api.url}/v1/users/{user}", "the same profile over HTTP (docs/api.md)"),
        (f"{program} job status", "state, rates and lag of the job"),
        (stack.rest_url, "Flink's web interface"),
        (stop, "stop everything, the console too; `make demo` starts over"),
    ]


def _program() -> str:
    """How the user calls this command: by name if the virtual environment is active."""
    own = Path(sys.prefix) / "bin" / "liveprofile"
    named = shutil.which("liveprofile")
    if named and Path(named).resolve() == own.resolve():
        return "liveprofile"
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)
