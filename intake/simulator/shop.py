"""The simulated shop: an iterator over its days, their tables and JSON lines; and a ring alone.

Array shapes: N rows.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from intake.simulator import cases
from intake.simulator.plan import (
    HABIT_CHANGES,
    RING_COUPONS,
    CaseKind,
    CasePlan,
    HabitChanges,
    IdCounts,
    PlantedCase,
)
from intake.simulator.visits import OrdinaryTraffic, events_per_visit
from intake.simulator.world import (
    CHANNELS,
    ITEMS_PER_CATEGORY,
    SHOPS,
    START,
    People,
    RandomStream,
    ShopConfig,
    World,
    random_generator,
)
from liveprofile.errors import InputError
from liveprofile.units import DAY_MS, HOUR_MS
from liveprofile.wire.scored_events import CELLS_PER_DEGREE
from liveprofile.wire.tokens import EVENT_TYPES

# Columns of the event table that belong to an object of the JSON event.
OBJECTS = {"place": ("lat", "lon"), "attributes": ("shop_id", "address_id")}
# Columns that a label copies from its event.
SHARED = ("device_id", "coupon_id", *OBJECTS["attributes"])
FRAUD, LEGITIMATE = "fraud", "legitimate"
# Users, devices, addresses, coupons, items, categories, shops. The position is part of the key
# of the prefix's random stream: append only.
_PREFIXES = ("u", "d", "a", "c", "i", "k", "s")


class IdMapper:
    """Maps codes to ids: a prefix and a number.

    The numbers are a random permutation of the codes, so an id reveals nothing about its role.
    """

    def __init__(self, seed: int, counts: IdCounts, world: World):
        sizes = (*counts, world.item_count, world.category_count, SHOPS)
        self._numbers = {
            prefix: random_generator(seed, RandomStream.IDS, index)
            .permutation(size)
            .astype(np.int32)
            for index, (prefix, size) in enumerate(zip(_PREFIXES, sizes, strict=True))
        }

    def ids(self, prefix: str, codes: np.ndarray) -> pa.Array:
        """(N,) ids, null for codes below 0."""
        numbers = self._numbers[prefix]
        array = pa.array(numbers[codes], mask=codes < 0).cast(pa.string())
        digits = pc.utf8_lpad(array, width=len(str(len(numbers) - 1)), padding="0")
        return pc.binary_join_element_wise(prefix, digits, "")


class ShopDay(NamedTuple):
    """N events in order of time, and a label for each event of a planted case."""

    events: pa.Table
    labels: pa.Table

    def records(self) -> Iterator[dict[str, Any]]:
        """Events of the data contract, without missing fields."""
        for row in self.events.to_pylist():
            for name, parts in OBJECTS.items():
                row[name] = _present({part: row.pop(part) for part in parts}) or None
            yield _present(row)

    def lines(self) -> bytes:
        """Events as JSON lines."""
        return _json_lines(self.records())

    def label_lines(self) -> bytes:
        """Labels as JSON lines for `liveprofile risk feedback`, without missing fields."""
        return _json_lines(map(_present, self.labels.to_pylist()))


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _json_lines(values: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _build_day(
    rows: np.ndarray, first_number: int, seed: int, mapper: IdMapper, cases: list[PlantedCase]
) -> ShopDay:
    """The tables of (N,) rows in order of time.

    `first_number`: number of events in the run before this day; event ids count on from it.
    """
    numbers = pa.array(np.arange(first_number, first_number + len(rows))).cast(pa.string())
    event_id = pc.binary_join_element_wise(f"e{seed}", numbers, "-")
    user_id = mapper.ids("u", rows["user"])
    category = np.where(rows["item"] < 0, -1, rows["item"] // ITEMS_PER_CATEGORY)
    columns = {
        "event_id": event_id,
        "user_id": user_id,
        "event_type": _decode(EVENT_TYPES, rows["type"]),
        "event_time": pa.array(rows["time_ms"]),
        "item_id": mapper.ids("i", rows["item"]),
        "category_id": mapper.ids("k", category),
        "price": _nan_to_null(rows["price"]),
        "quantity": pa.array(rows["quantity"], mask=rows["quantity"] < 0),
        "amount": _nan_to_null(rows["amount"]),
        "device_id": mapper.ids("d", rows["device"]),
        "lat": _nan_to_null(rows["lat"]),
        "lon": _nan_to_null(rows["lon"]),
        "coupon_id": mapper.ids("c", rows["coupon"]),
        "channel": _decode(CHANNELS, rows["channel"]),
        "friend_id": mapper.ids("u", rows["friend"]),
        "shop_id": mapper.ids("s", rows["shop"]),
        "address_id": mapper.ids("a", rows["address"]),
    }
    events = pa.table(columns)
    return ShopDay(events, _labels(rows, events, cases))


def _labels(rows: np.ndarray, events: pa.Table, cases: list[PlantedCase]) -> pa.Table:
    index = np.flatnonzero(rows["case"] >= 0)
    labelled = events.take(pa.array(index))
    number = rows["case"][index]
    kind = np.array([case.kind for case in cases], np.int64)[number]
    delay_ms = np.array([case.label_delay_ms for case in cases], np.int64)[number]
    is_fraud = np.array([each.is_fraud for each in CaseKind])[kind]
    label = _decode((LEGITIMATE, FRAUD), is_fraud.astype(np.int64))
    return pa.table(
        {
            "event_id": labelled["event_id"],
            "user_id": labelled["user_id"],
            "event_time": labelled["event_time"],
            "label": label,
            "kind": _decode([each.text for each in CaseKind], kind),
            "case": pa.array(number),
            "known_at": pa.array(rows["time_ms"][index] + delay_ms),
            **{name: labelled[name] for name in SHARED},
            "place": _cells(rows["lat"][index], rows["lon"][index]),
        }
    )


def _cells(lat_N: np.ndarray, lon_N: np.ndarray) -> pa.Array:
    """(N,) grid cells in the notation of labels, null where the location is missing."""
    unknown_N = np.isnan(lat_N)
    lat, lon = (
        pa.array(np.floor(np.where(unknown_N, 0.0, degrees_N) * CELLS_PER_DEGREE).astype(np.int64))
        for degrees_N in (lat_N, lon_N)
    )
    cells = pc.binary_join_element_wise(lat.cast(pa.string()), lon.cast(pa.string()), ":")
    return pc.if_else(pa.array(unknown_N), None, cells)


def _decode(names: Any, index: np.ndarray) -> pa.Array:
    return pa.array(list(names)).take(pa.array(index))


def _nan_to_null(values: np.ndarray) -> pa.Array:
    return pa.array(values, from_pandas=True)


class Shop:
    """Yields one ShopDay per day of the run; each iteration starts again from the first day.

    Memory holds the habits of all users, the events of one day, and the events of earlier days
    that lie in the future (returns of goods, the rest of a ring). Raises InputError if the planted
    cases need more users than there are.
    """

    def __init__(self, config: ShopConfig):
        self.config = config
        self._world = World(config.seed)
        self.people = People(config, self._world, events_per_visit())
        plan = CasePlan(config, self.people)
        self.cases: list[PlantedCase] = plan.cases
        changes = HabitChanges(config, plan.cases, self.people, self._world)
        self._traffic = OrdinaryTraffic(config, self.people, changes, self._world)
        self._ids = IdMapper(config.seed, plan.id_counts, self._world)
        # Cases with events of their own, by the day on which they begin.
        self._cases_by_day: dict[int, list[PlantedCase]] = {}
        for case in plan.cases:
            if case.kind not in HABIT_CHANGES:
                day = (case.start_ms - config.start_ms) // DAY_MS
                self._cases_by_day.setdefault(day, []).append(case)

    def __iter__(self) -> Iterator[ShopDay]:
        pending = np.empty(0)
        first_number = 0
        for day in range(self.config.days):
            planted = self._cases_by_day.get(day, ())
            drawn = [self._traffic.draw_day(day), *map(self._draw_case, planted)]
            rows = np.concatenate([pending, *drawn] if len(pending) else drawn)
            due = rows["time_ms"] < self.config.start_ms + (day + 1) * DAY_MS
            pending, rows = rows[~due], rows[due]
            rows = rows[np.argsort(rows["time_ms"], kind="stable")]
            yield _build_day(rows, first_number, self.config.seed, self._ids, self.cases)
            first_number += len(rows)

    def _draw_case(self, case: PlantedCase) -> np.ndarray:
        """The event rows of the case, in no particular order."""
        rng = random_generator(self.config.seed, RandomStream.CASE, case.number)
        people, world = self.people, self._world
        if case.kind is CaseKind.TAKEOVER:
            rows = cases.takeover_events(rng, case, people, world)
        elif case.kind is CaseKind.CARD_TEST:
            rows = cases.card_test_events(rng, case, people, world)
        elif case.kind is CaseKind.COUPON_RING:
            rows = cases.ring_events(rng, case, world)
        else:
            rows = cases.campaign_events(rng, case, self.config, people, world)
        rows["case"] = case.number
        return rows


def shared_device_ring(
    users: int = 50,
    devices: int = 3,
    *,
    labelled: bool = True,
    seed: int = 0,
    addresses: int = 4,
    hours: float = 48.0,
    start: date = START,
) -> ShopDay:
    """Purchases of a ring whose users share devices, addresses and coupons.

    labelled: as fraud. With another number of devices, such as one per user, all fields but
    device_id are equal. Raises InputError if there are more devices than users, or none.
    """
    config = ShopConfig(users, 1, start, seed, ring_users=users, ring_devices=devices)
    codes = map(np.arange, (users, devices, addresses, RING_COUPONS))
    kind, duration_ms = CaseKind.COUPON_RING, int(hours * HOUR_MS)
    case = PlantedCase(0, kind, config.start_ms, duration_ms, 0, *codes)
    world = World(config.seed)
    rows = cases.ring_purchases(random_generator(config.seed, RandomStream.SCENARIO), case, world)
    if labelled:
        rows["case"] = case.number
    rows = rows[np.argsort(rows["time_ms"], kind="stable")]
    # One device per user is reserved, so that ids do not depend on the number of devices.
    counts = IdCounts(users, users, len(case.addresses), len(case.coupons))
    return _build_day(rows, 0, config.seed, IdMapper(config.seed, counts, world), [case])


def write_shop(
    shop: Shop, out: Path, labels: Path | None = None, on_day: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Writes the shop day by day as JSON lines; `on_day` is called after each.

    Returns what `liveprofile events generate` prints. Raises InputError for a file that cannot be
    written.
    """
    if labels == out:
        raise InputError(f"{labels}: events and labels need a file each")
    started = time.monotonic()
    count, fraud_events = 0, Counter[str]()
    with ExitStack() as stack:
        files = []
        for path in filter(None, (out, labels)):
            if path.suffix != ".jsonl":
                raise InputError(f"{path}: the file name must end in .jsonl")
            try:
                files.append(stack.enter_context(path.open("wb")))
            except OSError as error:
                raise InputError(f"{path}: {error.strerror or error}") from None
        for day in shop:
            for file, lines in zip(files, (day.lines, day.label_lines), strict=False):
                file.write(lines())
            count += day.events.num_rows
            fraud = day.labels.filter(pc.equal(day.labels["label"], FRAUD))
            fraud_events.update(fraud["kind"].to_pylist())
            on_day()
    return {
        "events": count,
        "users": shop.config.users,  # ordinary ones
        "days": shop.config.days,
        "seed": shop.config.seed,
        "fraud_events": dict(sorted(fraud_events.items())),  # by kind
        "seconds": round(time.monotonic() - started, 3),
    }
