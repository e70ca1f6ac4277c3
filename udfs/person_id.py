"""The Flink UDF `person_id`: which person an event belongs to, a vectorized (pandas) function.

Both pipelines call it before anything is keyed by user (jobs/sql/event_views.py). It keeps no
state: the result depends on the id, the event's time and the merges, so a replay that finds the
same merges gives each event to the same person.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing

import pandas as pd
from pyflink.table import DataTypes, TableEnvironment
from pyflink.table.udf import FunctionContext, ScalarFunction, udf

from liveprofile.feeds.feed import Current
from liveprofile.feeds.users import follow_merges
from liveprofile.identity.merges import IdentityTable
from liveprofile.settings import Settings
from udfs.worker_guard import worker_guard

OpenMerges = Callable[[Settings], Current[IdentityTable]]


class PersonIdUdf(ScalarFunction):
    """Maps user ids and event times in ms to the ids of persons."""

    def __init__(self, settings: Settings, open_merges: OpenMerges):
        self._settings, self._open_merges = settings, open_merges

    def is_deterministic(self) -> bool:
        """Merges come in while the job runs. So the planner calls it once, however often its result
        is used."""
        return False

    def open(self, function_context: FunctionContext) -> None:
        with ExitStack() as opening:
            opening.enter_context(worker_guard())
            self._merges = opening.enter_context(closing(self._open_merges(self._settings)))
            self._opened = opening.pop_all()

    def close(self) -> None:
        self._opened.close()

    def eval(self, user_id: pd.Series, event_ms: pd.Series) -> pd.Series:
        merges = self._merges.current()
        if not len(merges):
            return user_id
        return pd.Series(merges.resolve_rows(user_id.tolist(), event_ms.tolist()), dtype=object)


def register_person_id(
    t_env: TableEnvironment, settings: Settings, open_merges: OpenMerges = follow_merges
) -> None:
    """Registers the function of the views `identified`, if the settings follow merges.

    open_merges: called with the settings in each Python worker.
    """
    if not settings.merges.enabled:
        return
    function = udf(
        PersonIdUdf(settings, open_merges), result_type=DataTypes.STRING(), func_type="pandas"
    )
    t_env.create_temporary_system_function("person_id", function)
