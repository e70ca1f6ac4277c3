"""The profile job with faults built in: each strikes once when its file appears in FOLDER.

    flink run -py tests/faults/failing_job.py ... --config FILE --faults FOLDER

What is defined here travels to the Python workers with the job, since they know no tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyflink.table import DataTypes, EnvironmentSettings, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from jobs import profile_job
from jobs.sql import tables
from liveprofile.config import Settings, load
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from udfs.profile.sink import open_profile_sink
from udfs.profile.udf import ProfileMetrics, ProfileUdf


class Fault:
    """Raises once for each time that its file is made, in whichever worker comes first."""

    def __init__(self, folder: str, name: str):
        self.folder, self.name = folder, name

    def strike(self) -> None:
        try:
            (Path(self.folder) / self.name).unlink()
        except FileNotFoundError:
            return
        raise RuntimeError(f"injected: {self.name} fails")


class Struck:
    """Hands everything on to `real`, but for one method that its fault strikes first."""

    def __init__(self, real: Any, method: str, fault: Fault):
        self._real, self._method, self._fault = real, method, fault

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._fault.strike()
        return getattr(self._real, name)


class FailingOperator(ProfileUdf):
    """The model call and the Cassandra write fail."""

    def __init__(self, settings: Settings, folder: str):
        write = Fault(folder, "write")
        super().__init__(
            settings,
            read_rules(product_path(settings.rules)),
            lambda settings, dim: Struck(open_profile_sink(settings, dim), "write", write),
            ProfileMetrics,
        )
        self._fault = Fault(folder, "model")

    def open(self, function_context: Any) -> None:
        super().open(function_context)
        self._updater._model = Struck(self._updater._model, "score", self._fault)


class FailingOffset(ScalarFunction):
    """Right behind the source: what fails here must not be taken for a parse error.

    On the offset, since a payload may hold bytes that Python can't decode.
    """

    def __init__(self, folder: str):
        self._fault = Fault(folder, "source")

    def eval(self, offset: int) -> int:
        self._fault.strike()
        return offset


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--faults")
    options = parser.parse_args()
    settings = load(options.config)
    t_env = StreamTableEnvironment.create(
        environment_settings=EnvironmentSettings.in_streaming_mode()
    )
    t_env.execute_sql(tables.kafka_source("records", settings))
    t_env.create_temporary_system_function(
        "failing", udf(FailingOffset(options.faults), result_type=DataTypes.BIGINT())
    )
    plan = profile_job.build(
        t_env,
        settings,
        source="""
            CREATE TEMPORARY VIEW source AS SELECT payload, record_topic, record_partition,
                failing(record_offset) AS record_offset, record_time, event_clock, arrival
            FROM records""",
        sink=tables.kafka_sink("sink", settings),
        update_profile=udf(
            FailingOperator(settings, options.faults),
            result_type=DataTypes.ARRAY(DataTypes.STRING()),
            func_type="pandas",
        ),
    )
    plan.execute()


if __name__ == "__main__":
    main()
