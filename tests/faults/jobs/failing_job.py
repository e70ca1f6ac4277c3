"""The profile job with injected faults: each occurs once when its file appears in FOLDER.

    flink run -py tests/faults/jobs/failing_job.py ... --config FILE --faults FOLDER

Flink pickles the classes of this module with the job, because the Python workers have no tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyflink.table import DataTypes, EnvironmentSettings, StreamTableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from jobs import profile_job
from jobs.sql import tables
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.segments.definitions import read_segments
from liveprofile.settings import Settings, load
from udfs.profile.model_feed import ModelFeed
from udfs.profile.sink import open_profile_sink
from udfs.profile.udf import ProfileMetrics, ProfileUdf


class Fault:
    """Raises once each time its file is created, in the first worker that calls it."""

    def __init__(self, folder: str, name: str):
        self.folder, self.name = folder, name

    def raise_if_due(self) -> None:
        try:
            (Path(self.folder) / self.name).unlink()
        except FileNotFoundError:
            return
        raise RuntimeError(f"injected: {self.name} fails")


class FailingProxy:
    """Passes every attribute on to `target`; before `method` the fault may occur."""

    def __init__(self, target: Any, method: str, fault: Fault):
        self._target, self._method, self._fault = target, method, fault

    def __getattr__(self, name: str) -> Any:
        if name == self._method:
            self._fault.raise_if_due()
        return getattr(self._target, name)


class FailingProfileUdf(ProfileUdf):
    """A ProfileUdf whose model call and Cassandra write can fail."""

    def __init__(self, settings: Settings, folder: str):
        write, score = Fault(folder, "write"), Fault(folder, "model")
        super().__init__(
            settings,
            read_rules(product_path(settings.rules)),
            read_segments(product_path(settings.segments)),
            lambda settings, dim: FailingProxy(open_profile_sink(settings, dim), "write", write),
            ProfileMetrics,
            open_model_feed=lambda settings, model, texts_unread: ModelFeed(
                FailingProxy(model, "score", score), lambda reference: model
            ),
        )


class FailingOffsetUdf(ScalarFunction):
    """Returns the offset; can fail directly after the source.

    The job must not treat the failure as a parse error. The function takes the offset because a
    payload may contain bytes that Python cannot decode.
    """

    def __init__(self, folder: str):
        self._fault = Fault(folder, "source")

    def eval(self, offset: int) -> int:
        self._fault.raise_if_due()
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
        "failing", udf(FailingOffsetUdf(options.faults), result_type=DataTypes.BIGINT())
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
            FailingProfileUdf(settings, options.faults),
            result_type=DataTypes.ARRAY(DataTypes.STRING()),
            func_type="pandas",
        ),
    )
    plan.execute()


if __name__ == "__main__":
    main()
