"""Job, input and rejected records. Each part of a page is read by itself."""

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from console.access import Operator, Visitor
from console.charts import LineChart, Sample, line_chart
from console.formats import facts, number, utc
from console.job import JobReader
from console.rendering import page, part_page
from intake.files.rejected import RejectedRecord
from serve.keys import Scope
from serve.routes.common import KAFKA_DEADLINE_S
from serve.security import Call
from services import operations as service
from services.operations import REJECTED_OFFSETS
from services.trends import trends
from services.trends.count_store import Series
from services.trends.points import Metric
from services.trends.trends import TrendPoints

POINTS = {"hour": 24 * 7, "day": 60}
AUDITS = 10

# Of pages that ask Flink or Kafka.
SlowReader = Annotated[Call, Depends(Visitor(Scope.OPERATIONS, deadline_s=KAFKA_DEADLINE_S))]

router = APIRouter(prefix="/operations")


@router.get("")
async def operations(
    call: Operator, by: Literal["hour", "day"] = "hour", metric: Metric = "events"
) -> Response:
    return page(call.request, "operations/page.html", by=by, metric=metric)


@router.get("/job")
async def job(call: SlowReader) -> Response:
    reader: JobReader = call.request.app.state.job
    found = list(map(dict, await reader.status()))  # the reader keeps its own
    warnings = [warning for of_job in found for warning in of_job.pop("warnings")]
    figures = [fact for of_job in found for fact in facts(of_job)]
    return _part(call, "job", "Job", figures=figures, warnings=warnings)


@router.get("/trend")
async def trend(
    call: Annotated[Call, Depends(Visitor(Scope.TRENDS))],
    by: Literal["hour", "day"] = "hour",
    metric: Metric = "events",
) -> Response:
    found = await call.run(trends.trend, Series.of(None, None), by, metric, POINTS[by])
    chart = None if found is None else trend_chart(found)
    return _part(call, "trend", "Trend", trend=found, chart=chart, by=by, metric=metric)


@router.get("/audit")
async def audit(call: Operator) -> Response:
    return _part(call, "audit", "Last audit", audits=await call.run(service.audits, AUDITS))


def _part(call: Call, name: str, heading: str, **values: Any) -> Response:
    return part_page(call.request, f"parts/operations_{name}.html", heading, **values)


SHOWN = 100
SUMMARISED = 1_000

Reason = Annotated[str, Query(pattern=r"^[A-Z_]{0,40}$")]


@router.get("/rejected")
async def rejected(call: SlowReader, reason: Reason = "") -> Response:
    """The latest records. It reads Kafka, which may take seconds."""
    found, reasons = await _rejected(call)
    shown = [record for record in found if reason in ("", record.reason)][:SHOWN]
    values = {"reasons": reasons, "reason": reason, "of_each": REJECTED_OFFSETS}
    return page(call.request, "operations/rejected.html", records=shown, text_of=text_of, **values)


@router.get("/rejected/summary")
async def summary(call: SlowReader) -> Response:
    """How many of the latest records have each reason, as a part of the operations page."""
    _, reasons = await _rejected(call)
    return _part(call, "rejected", "Rejected records", reasons=reasons, of_each=REJECTED_OFFSETS)


async def _rejected(call: Call) -> tuple[list[RejectedRecord], list[tuple[str, int]]]:
    """The latest records, and how many of them have each reason, most frequent first."""
    found = await call.run(service.rejected_records, SUMMARISED)
    return found, Counter(record.reason for record in found).most_common()


def trend_chart(trend: TrendPoints) -> LineChart | None:
    return line_chart(
        [
            Sample(
                point.start_ms,
                point.value,
                f"{utc(point.start_ms)}: {number(point.value)}",
                point.low,
                point.high,
                f"outside the range: {number(point.value)}" if point.outside else "",
            )
            for point in trend.points
        ]
    )


def text_of(record: RejectedRecord) -> str:
    return record.as_dict()["payload"] or ""
