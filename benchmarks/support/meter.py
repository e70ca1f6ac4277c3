"""Measures CPU time and memory of each process of the stack during a run."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

import psutil

from stack.local import Stack

SAMPLE_S = 0.5


class Usage(NamedTuple):
    cpu_s: float  # user and system time
    rss_mb_max: float  # resident memory


def processes(stack: Stack) -> dict[str, psutil.Process]:
    """The services, their Python workers (python_1, python_2, ...) and this benchmark."""
    found = {name: psutil.Process(service.pid) for name, service in stack.services.items()}
    for number, worker in enumerate(stack.taskmanager.workers(), 1):
        found[f"python_{number}"] = worker
    return found | {"benchmark": psutil.Process()}


class Meter:
    """Measures from __enter__ to __exit__ and then holds the results.

    usage: by process. others_cpu_s: CPU time of all other processes of the machine.
    """

    def __init__(self, stack: Stack, more: Mapping[str, int] = MappingProxyType({})):
        """more: process ids of further processes by name."""
        self._processes = processes(stack)
        self._processes |= {name: psutil.Process(pid) for name, pid in more.items()}
        self._rss: dict[str, float] = {}
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.usage: dict[str, Usage] = {}
        self.others_cpu_s = 0.0

    def __enter__(self) -> Self:
        self._machine_s, self._before = _machine_s(), self._cpu()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        after = self._cpu() if kind is None else {}
        self._over.set()
        self._sampler.join()
        self.usage = {
            name: Usage(round(after[name] - self._before[name], 2), round(self._rss[name]))
            for name in after
        }
        ours_s = sum(usage.cpu_s for usage in self.usage.values())
        self.others_cpu_s = round(max(0.0, _machine_s() - self._machine_s - ours_s), 2)

    def report(self) -> dict[str, Any]:
        """The results for a benchmark's JSON line."""
        return {
            "cpu_s": {process: usage.cpu_s for process, usage in self.usage.items()},
            "others_cpu_s": self.others_cpu_s,
            "rss_mb_max": {process: usage.rss_mb_max for process, usage in self.usage.items()},
        }

    def _cpu(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: cpu_times.user + cpu_times.system for name, cpu_times in times.items()}

    def _sample(self) -> None:
        while True:
            for name, process in self._processes.items():
                with suppress(psutil.NoSuchProcess):  # the run itself reports a process that ended
                    rss_mb = process.memory_info().rss / 1e6
                    self._rss[name] = max(rss_mb, self._rss.get(name, 0.0))
            if self._over.wait(SAMPLE_S):
                return


def _machine_s() -> float:
    """CPU seconds that the whole machine has used since boot."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq
