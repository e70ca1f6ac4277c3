"""The file of a plan: Parquet, with the campaign as metadata of the schema."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from liveprofile.campaigns.plan import Cap, Target
from liveprofile.errors import InputError

_METADATA = b"liveprofile.campaign"
_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("group", pa.string()),
        ("segments", pa.list_(pa.string())),
        ("churn", pa.float64()),
        ("expected_spend", pa.float64()),
        ("expected_gain", pa.float64()),
    ]
)


class Campaign(BaseModel):
    """What a plan is about."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    start_ms: int = Field(ge=0, description="event time from which on outcomes count")
    control_share: float = Field(ge=0, lt=1)
    cost: float = Field(ge=0)
    cap: Cap | None = None


def is_campaign_name(text: str) -> bool:
    """Whether a campaign may have this name."""
    return re.fullmatch(_NAME, text) is not None


class PlanFile(NamedTuple):
    campaign: Campaign
    targets: list[Target]


def write_plan(file: Path, plan: PlanFile) -> None:
    """Raises InputError."""
    columns = [list(column) for column in zip(*plan.targets, strict=True)] or [[]] * len(_SCHEMA)
    schema = _SCHEMA.with_metadata({_METADATA: plan.campaign.model_dump_json().encode()})
    table = pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema)
    try:
        pq.write_table(table, file)
    except OSError as error:
        raise InputError(f"plan {file}: {error.strerror or error}") from None


def write_csv(file: Path, plan: PlanFile) -> None:
    """Writes the treatment and the control group; segments are separated by spaces.

    Raises InputError.
    """
    try:
        with file.open("w", newline="", encoding="utf-8") as output:
            writer = csv.writer(output)
            writer.writerow(["campaign", *_SCHEMA.names])
            for target in plan.targets:
                row = target._replace(segments=" ".join(target.segments))
                writer.writerow([plan.campaign.name, *row])
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None


def read_plan(file: Path) -> PlanFile:
    """Raises InputError if the file is no plan."""
    try:
        table = pq.read_table(file)
        metadata = (table.schema.metadata or {})[_METADATA]
        campaign = Campaign.model_validate_json(metadata)
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
    except FileNotFoundError:
        raise InputError(f"no file at {file}") from None
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        raise InputError(
            f"{file} is no plan: `liveprofile campaign plan --out FILE` writes one"
        ) from None
    targets = [Target(*row) for row in zip(*columns, strict=True)]
    return PlanFile(campaign, [each._replace(segments=tuple(each.segments)) for each in targets])
