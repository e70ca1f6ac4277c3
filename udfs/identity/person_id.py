"""The Flink UDF `person_id`: which person an event belongs to, a vectorized (pandas) function.

Both pipelines call it before anything is keyed by user (jobs/sql/event_views.py). It keeps no
state: the result depends on the id, the event's time and the merges, so a replay that finds the
same merges gives each event to the same person.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from pyflink.table import DataTypes, TableEnvironment
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.settings import Settings
from udfs.identity.merge_feed import MergeFeed, open_merge_feed
from udfs.worker_guard import open_worker_guard

OpenMergeFeed = Callable[[Settings], MergeFeed]


class PersonIdUdf(ScalarFunction):
    """Maps user ids and event times in ms to the ids of persons."""

    def __init__(self, settings: Settings, open_feed: OpenMergeFeed):
        self._settings, self._open_feed = settings, open_feed

    def is_deterministic(self) -> bool:
        """Merges come in while the job runs. So the planner calls it once, however often its result
        is used."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        self._guard = open_worker_guard()
        self._feed = self._open_feed(self._settings)

    def close(self) -> None:
        self._feed.close()
        self._guard.release()

    def eval(self, user_id: pd.Series, event_ms: pd.Series) -> pd.Series:
        book = self._feed.current()
        if not len(book):
            return user_id
        return pd.Series(book.resolve_rows(user_id.tolist(), event_ms.tolist()), dtype=object)


def register_person_id(
    t_env: TableEnvironment, settings: Settings, open_feed: OpenMergeFeed = open_merge_feed
) -> None:
    """Registers the function of the views `identified`, if the settings follow merges.

    open_feed: called with the settings in each Python worker.
    """
    if not settings.merges.enabled:
        return
    function = udf(
        PersonIdUdf(settings, open_feed), result_type=DataTypes.STRING(), func_type="pandas"
    )
    t_env.create_temporary_system_function("person_id", function)
