"""Drafts a mapping of a CSV or Parquet file from the names and the values of its columns."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from liveprofile.errors import InputError
from liveprofile.ingest.first_rows import first_of_csv, first_of_parquet
from liveprofile.ingest.mapping import NUMBER_FIELDS
from liveprofile.ingest.time_formats import formats_of, parse_time
from liveprofile.ingest.translation import number_of
from liveprofile.wire.tokens import TYPE_INDEX

MOST_SHARE = 0.9
MOST_TYPES = 50  # a column with more values is no event type

# Names of columns, most telling first, as words in lower case joined by underscores.
NAMES = {
    "user_id": "user_id userid user customer_id customerid customer client_id client visitor_id"
    " visitorid member_id household_id household_key household account_id shopper_id buyer_id uid",
    "event_time": "event_time eventtime timestamp event_timestamp transaction_timestamp datetime"
    " date_time time created_at occurred_at ordered_at purchased_at bought_at ts invoice_date"
    " invoicedate order_date purchase_date transaction_date date seconds",
    "event_type": "event_type eventtype event_name event action behavior_type behaviour_type"
    " behavior behaviour activity type",
    "event_id": "event_id eventid uuid transaction_id transactionid line_id row_id id",
    "item_id": "item_id itemid product_id productid product item sku stock_code stockcode asin"
    " article_id article",
    "category_id": "category_id categoryid category product_category category_code department",
    "price": "price unit_price unitprice",
    "quantity": "quantity qty units count",
    "amount": "amount total sales_value line_total revenue total_price value sales",
    "rating": "rating stars",
    "text": "review review_text text comment",
    "query": "query search search_term keyword keywords",
    "session_id": "session_id sessionid user_session session basket_id order_id orderid order_no"
    " order_number receipt receipt_id invoice"
    " invoice_no invoiceno visit_id",
    "device_id": "device_id deviceid device",
    "channel": "channel",
    "coupon_id": "coupon_id coupon coupon_upc voucher",
    "campaign_id": "campaign_id campaign",
    "friend_id": "friend_id friend",
    "place.lat": "lat latitude",
    "place.lon": "lon lng long longitude",
}  # fmt: skip
TYPES = {
    "view": "view pv page_view pageview click detail impression visit",
    "cart": "cart add_to_cart addtocart basket add",
    "favorite": "favorite favourite fav wishlist like",
    "purchase": "purchase buy order transaction checkout sale sold paid",
    "return": "return refund returned",
    "review": "review rate rating comment",
    "search": "search query",
    "share": "share",
    "follow": "follow",
    "coupon": "coupon redeem redemption voucher",
    "campaign": "campaign",
    "login": "login log_in signin sign_in",
}
COMMON_FIELDS = ("item_id", "category_id", "price", "quantity", "amount", "session_id", "device_id")
FIELD_OF_NAME = {name: field for field, names in NAMES.items() for name in names.split()}
TYPE_OF_NAME = {name: kind for kind, names in TYPES.items() for name in names.split()}


class Draft(NamedTuple):
    """A drafted mapping: what `read_mapping` reads, and what a person has to look at."""

    format: str
    delimiter: str
    decimal: str
    columns: list[str]  # names for a CSV without a header line
    sort_by_time: bool
    time: dict[str, str]
    fields: dict[str, str]
    fixed: dict[str, str]
    types: dict[str, str]
    unused: list[str]  # columns that no field uses
    unsure: dict[str, str]  # key of the mapping: why, and what to do

    def to_toml(self, source: str) -> str:
        """The mapping as TOML, with a comment at each key to look at."""
        lines = [f"# Drafted from {source} by `liveprofile mapping infer`: look at each comment."]
        lines += [f"format = {_text(self.format)}"]
        if self.delimiter != ",":
            lines.append(f"delimiter = {_text(self.delimiter)}")
        if self.decimal != ".":
            lines.append(f"decimal = {_text(self.decimal)}")
        if self.columns:
            lines.append(f"columns = [{', '.join(map(_text, self.columns))}]")
        if self.sort_by_time:
            lines.append("sort_by_time = true")
        for section in ("time", "fields", "fixed", "types"):
            values: dict[str, str] = getattr(self, section)
            notes = {
                key.partition(".")[2]: note
                for key, note in self.unsure.items()
                if key.startswith(f"{section}.")
            }
            if not (values or notes):
                continue
            lines += ["", f"[{section}]"]
            for key, value in values.items():
                note = f"  # ? {notes.pop(key)}" if key in notes else ""
                lines.append(f"{_key(key)} = {_text(value)}{note}")
            lines += [f"# {_key(key)} = ?  {note}" for key, note in notes.items()]
        if self.unused:
            lines += ["", f"# Columns that are not used: {', '.join(self.unused)}"]
            lines += ["# [fields] may have: " + ", ".join(free)] if (free := self._free()) else []
        return "\n".join(lines) + "\n"

    def _free(self) -> list[str]:
        """The fields that most files have and this draft has not."""
        return [name for name in COMMON_FIELDS if name not in self.fields]


def infer(source: Path) -> Draft:
    """Drafts the mapping of a file from its first rows. Raises InputError."""
    if not source.is_file():
        raise InputError(f"no file at {source}")
    with source.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        return draft("parquet", ",", first_of_parquet(source), has_header=True)
    delimiter, rows = first_of_csv(source)
    if not rows or len(rows[0]) < 2 or rows[0][0].startswith("{"):
        raise InputError(f"{source}: neither Parquet nor a CSV with several columns")
    has_header = _is_header(rows[0])
    names = rows[0] if has_header else [f"column_{number + 1}" for number in range(len(rows[0]))]
    body = [row for row in rows[has_header:] if len(row) == len(names)]
    values = {name: [row[index] for row in body] for index, name in enumerate(names)}
    return draft("csv", delimiter, values, has_header)


def draft(
    file_format: str, delimiter: str, columns: dict[str, list[Any]], has_header: bool
) -> Draft:
    """columns: the first values of each column; texts from a CSV, typed from Parquet."""
    unsure: dict[str, str] = {}
    fields = _fields_by_name(columns)
    time = _time(columns, fields.pop("event_time", None), unsure)
    numbers = [name for name in fields if name in NUMBER_FIELDS]
    decimal = _decimal(columns, [fields[name] for name in numbers])
    for field in numbers:
        if not _most(lambda value: _is_number(value, decimal), columns[fields[field]]):
            del fields[field]
    if "user_id" not in fields:
        free = [name for name in columns if name not in (*fields.values(), time.get("column"))]
        unsure["fields.user_id"] = "the column with the customer" + _perhaps(columns, free)
    event_id = fields.pop("event_id", None)
    if event_id is None or len(set(columns[event_id])) < len(columns[event_id]):
        user = fields.get("user_id")
        event_id = f"{{{user}}}-{{row}}" if user else "{row}"
        unsure["fields.event_id"] = (
            "no column is unique: this numbers the rows, so send the file once and as one"
        )
    fixed, types = _event_type(columns, fields, unsure)
    fields = {"event_id": event_id, **fields}
    order = ["event_id", *NAMES]
    used = {time.get("column"), *fields.values()}
    times = _times(columns.get(time.get("column", ""), []), time)
    return Draft(
        file_format,
        delimiter,
        decimal,
        [] if has_header else list(columns),
        any(earlier > later for earlier, later in itertools.pairwise(times)),
        time,
        {name: fields[name] for name in sorted(fields, key=order.index)},
        fixed,
        types,
        [name for name in columns if name not in used],
        unsure,
    )


def _fields_by_name(columns: dict[str, list[Any]]) -> dict[str, str]:
    """The column of each field whose name tells it; of several the most telling."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if field := FIELD_OF_NAME.get(_words(column)):
            found.setdefault(field, []).append(column)
    order = list(FIELD_OF_NAME)
    return {
        field: min(names, key=lambda name: order.index(_words(name)))
        for field, names in found.items()
    }


def _words(name: str) -> str:
    """user_id, userId, User ID and USER-ID become user_id."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")


def _time(
    columns: dict[str, list[Any]], named: str | None, unsure: dict[str, str]
) -> dict[str, str]:
    candidates = [name for name in columns if _time_unit(columns[name]) is not None]
    formats = (
        {}
        if candidates
        else {name: formats_of(_present(columns[name]), MOST_SHARE) for name in columns}
    )
    candidates += [name for name, found in formats.items() if found]
    column = named if named is not None else (candidates[0] if candidates else None)
    if column is None:
        unsure["time.column"] = "the column with the time of the event"
        return {}
    if found := formats.get(column):
        unsure["time.column"] = (
            f"chosen by its values; it may also be {found[1]}: is the day first?"
            if len(found) > 1
            else "local times, or UTC? set zone, such as Europe/Berlin"
        )
        return {"column": column, "format": found[0]}
    unit = _time_unit(columns[column])
    if unit is None:
        example = next(iter(_present(columns[column])), "")
        unsure["time.column"] = (
            f"{example!r} is neither ISO 8601 (2026-11-26T01:00) nor a count since 1970: set format"
        )
    elif column != named:
        unsure["time.column"] = "chosen by its values"
    elif unit == "iso" and not any(map(_has_zone, _present(columns[column]))):
        unsure["time.column"] = "times without a zone are UTC; else set zone"
    return {"column": column} | ({"unit": unit} if unit not in (None, "iso") else {})


def _time_unit(values: list[Any]) -> str | None:
    """The unit of a column of times: iso, s, ms, us or ns; None if they are no times."""
    present = _present(values)
    if not present:
        return None
    if _most(lambda value: isinstance(value, date) or _iso(value) is not None, present):
        return "iso"
    if not _most(_is_number, present):
        return None
    median = statistics.median(float(value) for value in present if _is_number(value))
    # From 2001 to 2100.
    for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
        if 1e9 * factor <= median < 4.1e9 * factor:
            return unit
    return None


def _iso(value: Any) -> datetime | None:
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", value):
        return None
    try:
        return datetime.fromisoformat(value.removesuffix(" UTC"))
    except ValueError:
        return None


def _has_zone(value: Any) -> bool:
    moment = value if isinstance(value, datetime) else _iso(value)
    return moment is not None and moment.tzinfo is not None


def _times(values: list[Any], time: dict[str, str]) -> list[Any]:
    """Comparable times, to see whether the rows are in order."""
    if time_format := time.get("format"):
        parsed = (parse_time(value, time_format) for value in _present(values))
        return [moment for moment in parsed if moment is not None]
    if time.get("unit", "iso") != "iso":
        return [float(value) for value in _present(values) if _is_number(value)]
    return [str(value) for value in _present(values)]


def _event_type(
    columns: dict[str, list[Any]], fields: dict[str, str], unsure: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The fixed values and the types of the mapping; removes a column that holds no types."""
    column = fields.pop("event_type", None)
    others = [name for name in columns if name not in fields.values()]
    candidates = [column] if column is not None else others
    by_column = {name: Counter(map(str, _present(columns[name]))) for name in candidates}
    column = next((name for name, counts in by_column.items() if _are_types(counts)), None)
    if column is None:
        bought = {"amount", "quantity", "price"} & fields.keys()
        few = [
            f"{name} ({', '.join(itertools.islice(counts, 4))})"
            for name, counts in by_column.items()
            if 1 < len(counts) <= MOST_TYPES
        ]
        unsure["fixed.event_type"] = "no column has event types: every row is one of these" + (
            f"; or set event_type in [fields] and the values in [types]: {', '.join(few)}"
            if few
            else ""
        )
        return {"event_type": "purchase" if bought else "view"}, {}
    fields["event_type"] = column
    counts = by_column[column]
    known = {value: TYPE_OF_NAME.get(_words(value)) for value in counts}
    for value, kind in known.items():
        if kind is None:
            unsure[f"types.{value}"] = (
                f"{counts[value]} rows; one of {', '.join(list(TYPE_INDEX)[:-1])}"
            )
    if all(value == kind for value, kind in known.items()):
        return {}, {}
    return {}, {value: kind for value, kind in known.items() if kind}


def _are_types(counts: Counter[str]) -> bool:
    """Whether at least half of the rows have a value that is the name of an event type."""
    known = sum(count for value, count in counts.items() if _words(value) in TYPE_OF_NAME)
    return len(counts) <= MOST_TYPES and 2 * known >= counts.total() > 0


def _most(is_expected: Callable[[Any], bool], values: list[Any]) -> bool:
    """Whether nearly all values are as expected; the job rejects the events of the others."""
    present = _present(values)
    return sum(map(is_expected, present)) >= MOST_SHARE * len(present)


def _present(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None and value != ""]


def _perhaps(columns: dict[str, list[Any]], names: list[str]) -> str:
    """The columns whose values come back, most values first."""
    counts = {name: len({str(value) for value in _present(columns[name])}) for name in names}
    rows = max(map(len, columns.values()), default=0)
    likely = [
        name
        for name in names
        if 1 < counts[name] <= MOST_SHARE * rows and not _has_comma(columns[name])
    ]
    likely = sorted(likely, key=lambda name: -counts[name])[:3]
    named = (f"{name} ({counts[name]} values in {rows} rows)" for name in likely)
    return f": perhaps {', '.join(named)}" if likely else ""


def _decimal(columns: dict[str, list[Any]], numbers: list[str]) -> str:
    """The decimal mark; of all columns if the names of none tell that they are numbers."""
    return "," if any(_has_comma(columns[name]) for name in numbers or columns) else "."


def _has_comma(values: list[Any]) -> bool:
    present = [value for value in _present(values) if isinstance(value, str)]
    return any("," in value for value in present) and _most(
        lambda value: number_of(value, ",") is not None, present
    )


def _is_number(value: Any, decimal: str = ".") -> bool:
    if decimal == "," and isinstance(value, str):
        return number_of(value, decimal) is not None
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _is_header(row: list[str]) -> bool:
    """Names are texts, each once; a row of data nearly always has a number or a time."""
    no_values = not any(_is_number(value) or _iso(value) or not value for value in row)
    return no_values and len(set(row)) == len(row)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
