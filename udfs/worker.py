"""What both UDFs have in a Python worker: feeds, and metrics of latencies."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from liveprofile.consent.changes import ConsentTable
from liveprofile.feeds.definition_topics import follow_definitions
from liveprofile.feeds.feed import Current, Fixed
from liveprofile.feeds.users import erasures_spec, follow, follow_consents
from liveprofile.flink.operator_metrics import BOUND_LABEL, BUCKET, BUCKETS_MS, NO_BOUND, SUM
from liveprofile.privacy.erasures import ErasureTable
from liveprofile.rules.rules import RULES, RuleSet
from liveprofile.segments.segments import SEGMENTS, SegmentSet
from liveprofile.settings import Settings

# Errors that malformed data raises. Other errors fail the task: a lost GPU, or one without memory.
DATA_ERRORS = (ValueError, TypeError, KeyError, IndexError, ArithmeticError)
# Malformed rows come mixed with good ones. If so many rows in a row fail, the code or the model is
# at fault: the task fails, because rejecting every event would lose them all.
MAX_CONSECUTIVE_FAILED_ROWS = 100
NO_SEGMENTS = SegmentSet(version="none", segments=())


class Feeds(NamedTuple):
    """What may change while the job runs. A batch reads each value once."""

    rules: Current[RuleSet]
    segments: Current[SegmentSet]
    consents: Current[ConsentTable]
    erasures: Current[ErasureTable]

    def close(self) -> None:
        for feed in self:
            feed.close()


def follow_feeds(settings: Settings, rules: RuleSet, segments: SegmentSet | None) -> Feeds:
    """Follows the topics in threads. Raises ServiceError if users' decisions cannot be read.

    rules, segments: of the files; in force until their topics have records. No segments: they are
    not followed.
    """
    with ExitStack() as opening:

        def opened(feed: Current[Any]) -> Current[Any]:
            opening.callback(feed.close)
            return feed

        feeds = Feeds(
            opened(follow_definitions(settings, RULES, rules)),
            Fixed(NO_SEGMENTS)
            if segments is None
            else opened(follow_definitions(settings, SEGMENTS, segments)),
            opened(follow_consents(settings)),
            opened(follow(settings, erasures_spec(settings))),
        )
        opening.pop_all()
    return feeds


class WorkerParts(NamedTuple):
    """What a UDF opens in each worker. Tests and benchmarks replace parts (`_replace`).

    All are pickled with the job.
    """

    open_store: Callable[..., Any]  # from the settings; of profiles, also from the embedding size
    # From Flink's metric group; the result is called with the timing of each batch.
    open_metrics: Callable[[Any], Callable[[Any], None]]
    open_feeds: Callable[[Settings, RuleSet, SegmentSet | None], Feeds] = follow_feeds
    # Of profiles: from the settings and their model.
    open_models: Callable[..., Any] | None = None


class LatencyCounters:
    """The Flink counters of one latency, in the buckets of `liveprofile.flink.operator_metrics`.

    group: Flink's metric group of the operator's pipeline. name: of the latency, with its unit.
    """

    def __init__(self, group: Any, name: str):
        group = group.add_group(name)
        bounds = (*map(str, BUCKETS_MS), NO_BOUND)
        self._buckets = [group.add_group(BOUND_LABEL, bound).counter(BUCKET) for bound in bounds]
        self._sum = group.counter(SUM)

    def observe(self, latency_ms: Sequence[float] | np.ndarray) -> None:
        """Counts latencies (n,).

        A negative one counts as 0: two machines' clocks differ by some milliseconds.
        """
        if not len(latency_ms):
            return
        ascending = np.sort(np.maximum(latency_ms, 0.0))
        # How many are at most each bound; the last counter has all of them.
        counts = [*np.searchsorted(ascending, BUCKETS_MS, side="right").tolist(), len(ascending)]
        for counter, count in zip(self._buckets, counts, strict=True):
            counter.inc(count)
        self._sum.inc(round(float(ascending.sum())))


class BatchMetrics:
    """Reports the timings of batches as Flink counters.

    group: of the operator's pipeline. The others name fields of a timing: numbers; stages, each a
    field `<stage>_ms` and a counter `<stage>_us`; lists of latencies.
    """

    def __init__(
        self, group: Any, counts: Sequence[str], stages: Sequence[str], latencies: Sequence[str]
    ):
        self._batches = group.counter("batches")
        self._counts = {name: group.counter(name) for name in counts}
        self._stages = {f"{stage}_ms": group.counter(f"{stage}_us") for stage in stages}
        self._latencies = {name: LatencyCounters(group, name) for name in latencies}

    def __call__(self, timing: Any) -> None:
        self._batches.inc()
        for name, counter in self._counts.items():
            counter.inc(getattr(timing, name))
        for name, counter in self._stages.items():
            counter.inc(round(getattr(timing, name) * 1000))
        for name, counters in self._latencies.items():
            counters.observe(getattr(timing, name))
