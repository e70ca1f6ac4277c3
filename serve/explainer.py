"""Explanations of windows, each in a child process: this one loads neither torch nor Flink."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

from liveprofile.errors import ServiceError
from liveprofile.pseudonym import user_pseudonym
from serve.problems import ApiError, UnavailableError

log = logging.getLogger(__name__)

EXPLANATION_S = 300.0  # that one explanation may take
RETRY_AFTER_S = 30  # about the time that an explanation takes
# After SIGTERM a child ends its own processes and removes its files.
END_S = 5.0
# The longest answer: 500 events.
MAX_ANSWER_BYTES = 16 << 20


class ExplanationRefusedError(ApiError):
    """The window cannot or may not be explained. `reason`: why, for programs."""

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        match reason:
            case "erased-user":
                super().__init__(404, "unknown-user", "no profile of this user")
            case "unknown-window":
                super().__init__(404, "unknown-past", detail)
            case _:
                super().__init__(409, reason, detail)


class ExplainerBusyError(UnavailableError):
    """As many explanations as the settings allow are under way."""

    def __init__(self, detail: str):
        super().__init__(detail, RETRY_AFTER_S)


class ExplanationTimeoutError(ExplainerBusyError):
    """The explanation took too long."""


class Explainer:
    """Runs a command for each explanation, at most `at_once` at a time.

    The command gets one line of JSON on stdin: `request` with user_id and until_ms. It answers with
    one JSON object: `explanation`, `refused` with kind and detail, or `unavailable`. It must end
    when stdin does, so that no child outlives this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        request: Mapping[str, Any],
        at_once: int,
        timeout_s: float = EXPLANATION_S,
    ):
        self._command, self._environment, self._request = command, environment, request
        self._at_once, self._timeout_s = at_once, timeout_s
        self._running = 0

    async def explain(self, user_id: str, until_ms: int | None) -> dict[str, Any]:
        """The user's last window that ended by then as client.analysis_models.Explanation.

        until_ms: None: the newest. Raises ExplanationRefusedError, ExplainerBusyError,
        ExplanationTimeoutError, ServiceError. If it is cancelled, so is the computation.
        """
        if self._running >= self._at_once:
            raise ExplainerBusyError(
                f"{self._running} explanations are under way (serve.max_explanations)"
            )
        self._running += 1
        started_s, outcome = time.monotonic(), "ended early"
        try:
            answer = await self._answer({"user_id": user_id, "until_ms": until_ms})
            outcome = next(iter(answer))
        finally:
            self._running -= 1
            seconds = time.monotonic() - started_s
            log.info("explanation of %s: %s, %.1f s", user_pseudonym(user_id), outcome, seconds)
        match answer:
            case {"explanation": dict(explanation)}:
                return explanation
            case {"refused": {"kind": kind, "detail": detail}}:
                raise ExplanationRefusedError(kind, detail)
            case {"unavailable": detail}:
                raise ServiceError(detail)
        raise RuntimeError(f"the explaining process answered with {list(answer)}")

    async def _answer(self, about: Mapping[str, Any]) -> dict[str, Any]:
        folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="liveprofile-explain-")
        starting = asyncio.create_task(self._start(folder))
        try:
            try:
                # asyncio may wait for ever if a cancellation meets it while it starts a process.
                child = await asyncio.shield(starting)
                async with asyncio.timeout(self._timeout_s):
                    return await _exchange(child, {**self._request, **about})
            except TimeoutError:
                raise ExplanationTimeoutError(f"not done within {self._timeout_s:g} s") from None
            finally:
                await asyncio.shield(_end(starting))
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _start(self, folder: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # a traceback may have ids of users
            limit=MAX_ANSWER_BYTES,
            env={**self._environment, "TMPDIR": folder},
            start_new_session=True,
        )


async def _exchange(child: Process, request: Mapping[str, Any]) -> dict[str, Any]:
    assert child.stdin is not None and child.stdout is not None
    # If the child has ended, its output tells.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(json.dumps(request).encode() + b"\n")
        await child.stdin.drain()
    output = await child.stdout.read()
    code = await child.wait()
    if code or not output:
        raise RuntimeError(f"the explaining process ended with code {code}")
    return json.loads(output)


async def _end(starting: asyncio.Task[Process]) -> None:
    """Ends the child and the processes that it has started, which are its group."""
    await asyncio.wait((starting,))
    if starting.exception():  # no child; the caller raises this
        return
    child = starting.result()
    if child.stdin is not None:
        child.stdin.close()
    if child.returncode is None:
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await child.wait()
    _signal_group(child, signal.SIGKILL)
    await child.wait()


def _signal_group(child: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(child.pid, number)
