"""Every text format between SQL and Python: Flink writes random values, Python reads them back."""

import random
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from pyflink.table import EnvironmentSettings, TableEnvironment

from jobs.sql.event_views import register_functions
from liveprofile.wire import (
    attribute_tiles,
    histories,
    output_records,
    token_columns,
    window_events,
)
from liveprofile.wire.attribute_tiles import AttributeTiles, TileDefinition
from liveprofile.wire.tokens import EVENT_TYPES, TYPE_INDEX, Token, token_sql, type_letter_sql

ROWS = 300
# Everything but the three separators, which no id and no payload can contain.
ALPHABET = string.printable.translate(str.maketrans("", "", "\x1d\x1e\x1f")) + "äß€😀\u2028'\\\"{}"


@pytest.fixture(scope="module")
def t_env() -> TableEnvironment:
    t_env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
    t_env.get_config().set("parallelism.default", "1")
    t_env.get_config().set("table.local-time-zone", "UTC")
    register_functions(t_env)
    return t_env


@pytest.fixture
def rng() -> random.Random:
    return random.Random(20)


def text(rng: random.Random, longest: int = 12) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, longest)))


def select(t_env: TableEnvironment, query: str) -> Iterator[Any]:
    with t_env.execute_sql(query).collect() as rows:
        yield from rows


def register(
    t_env: TableEnvironment, name: str, rows: Sequence[tuple[Any, ...]], columns: str
) -> None:
    names = [column.split()[0] for column in columns.split(", ")]
    values = t_env.from_elements(list(rows), _schema(columns))
    t_env.create_temporary_view(name, values.alias(*names))


def _schema(columns: str) -> Any:
    from pyflink.table import DataTypes

    types = {
        "INT": DataTypes.INT(),
        "BIGINT": DataTypes.BIGINT(),
        "DOUBLE": DataTypes.DOUBLE(),
        "STRING": DataTypes.STRING(),
    }
    fields = (column.split() for column in columns.split(", "))
    return DataTypes.ROW([DataTypes.FIELD(name, types[kind]) for name, kind in fields])


TOKEN_COLUMNS = (
    "u INT, w INT, ms BIGINT, event_type STRING, item STRING, category STRING, amount DOUBLE"
)
TOKEN = token_sql(
    "CAST(ms AS STRING)", type_letter_sql(), "item", "category", "CAST(amount AS STRING)"
)


def random_tokens(
    rng: random.Random, users: int, windows: int, count: int, longest_id: int = 12
) -> list[tuple[Any, ...]]:
    """Rows of TOKEN_COLUMNS: tokens of users in windows."""
    return [
        (
            rng.randrange(users),
            rng.randrange(windows),
            rng.randrange(10**12, 10**13),
            rng.choice(EVENT_TYPES),
            text(rng, longest_id),
            text(rng, longest_id),
            rng.choice([0.0, 19.99, 1e-9, 1e9, -3.5]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("longest_id", [12, 250])
def test_histories_written_by_sql_are_read_as_the_same_windows(
    t_env: TableEnvironment, rng: random.Random, longest_id: int
) -> None:
    tokens = random_tokens(rng, users=3, windows=45, count=4 * ROWS, longest_id=longest_id)
    name = f"history_tokens_{longest_id}"
    register(t_env, name, tokens, TOKEN_COLUMNS)
    over = "OVER (PARTITION BY u ORDER BY w ROWS UNBOUNDED PRECEDING)"
    bought = "CASE WHEN MOD(w, 3) = 0 THEN CAST(w AS BIGINT) * 10 END"
    window = histories.window_sql("CAST(w AS BIGINT) * 10", "tokens")
    history, purchases = histories.last_sql("this_window", "bought", over)
    query = f"""
        SELECT u, w, history, COALESCE(purchases, '')
        FROM (SELECT u, w, {history} AS history, {purchases} AS purchases
              FROM (SELECT u, w, {window} AS this_window, {bought} AS bought
                    FROM (SELECT u, w, {token_columns.tokens_sql("token")} AS tokens
                          FROM (SELECT *, {TOKEN} AS token FROM {name}) GROUP BY u, w)))"""
    rows = list(select(t_env, query))
    texts = [row[2] for row in rows]
    memories = histories.read_memories(texts)
    ends = np.cumsum(memories.token_counts).tolist()
    spans = list(map(slice, [0, *ends], ends))
    starts_ms = np.array([row[1] * 10 for row in rows])
    read = histories.read_histories(texts, [row[3] for row in rows], starts_ms, windows=4)
    shortened, first = 0, 0
    for at, ((user, last, *_), size) in enumerate(zip(rows, memories.sizes.tolist(), strict=True)):
        part = slice(first, first + size)
        first += size
        windows = sorted({row[1] for row in tokens if row[0] == user and row[1] <= last})
        of_window = {w: [row for row in tokens if row[:2] == (user, w)] for w in windows}
        kept = (memories.end_ms[part] // 10).tolist()
        assert kept == windows[-histories.MEMORY_WINDOWS :][-size:]
        shortened += size < min(len(windows), histories.MEMORY_WINDOWS)
        for one, span in zip(kept, spans[part], strict=True):
            found = (column[span].tolist() for column in memories[3:])
            assert Counter(zip(*found, strict=True)) == Counter(
                (TYPE_INDEX[row[3]], row[4], row[5]) for row in of_window[one]
            )
        span = slice(*read.tokens.starts[at : at + 2])
        found = zip(*(column[span] for column in read.tokens[1:]), strict=True)
        assert [Token(*map(_plain, one)) for one in found] == sorted(
            Token(row[2], TYPE_INDEX[row[3]], *row[4:])
            for one in windows[-5:-1]
            for row in of_window[one]
        )
        bought_ms = [one * 10 for one in windows if one % 3 == 0]
        before_ms = [time_ms for time_ms in bought_ms if time_ms < last * 10]
        assert read.last_purchase_ms_now[at] == max(bought_ms, default=0)
        assert read.last_purchase_ms[at] == max(before_ms, default=0)
    assert (shortened > 0) == (longest_id > 100)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def test_window_events_written_by_sql_are_read_back(
    t_env: TableEnvironment, rng: random.Random
) -> None:
    events = [
        (rng.randrange(10), rng.randrange(10**13), "c", rng.randrange(64), number, text(rng, 80))
        for number in range(ROWS)
    ]
    columns = "u INT, ms BIGINT, letter STRING, part INT, place BIGINT, payload STRING"
    register(t_env, "packed", events, columns)
    ms, partition, offset = (f"CAST({name} AS STRING)" for name in ("ms", "part", "place"))
    event = window_events.event_sql(ms, "letter", partition, offset, "payload")
    query = f"""
        SELECT u, {window_events.events_sql("event")}
        FROM (SELECT u, {event} AS event FROM packed) GROUP BY u"""
    found = {
        (user, one.time_ms, one.letter, int(one.partition), int(one.offset), one.payload)
        for user, packed in select(t_env, query)
        for one in window_events.parse(packed)
    }
    assert found == set(events)


SPENT = TileDefinition("spent", "0000000a", "sum", "sum", 1_000, 100, 24)
LAST = TileDefinition("last", "ffffffff", "last", "last", 0, 500, 3)


def test_attribute_tiles_written_by_sql_are_read_back(
    t_env: TableEnvironment, rng: random.Random
) -> None:
    """Events with numbers: SPENT adds those above 3, LAST keeps odd ones, and 0 restarts it."""
    events = [
        (rng.randrange(3), window := rng.randrange(9), window * 1_000 + rng.randrange(99) * 10, n)
        for n in (rng.randrange(10) for _ in range(ROWS))
    ]
    register(t_env, "numbers", events, "u INT, w INT, ms BIGINT, n INT")
    tokens = (
        attribute_tiles.value_token_sql(SPENT.digest, "n > 3", "n"),
        attribute_tiles.value_token_sql(LAST.digest, "MOD(n, 2) = 1", "n"),
        attribute_tiles.restart_token_sql(LAST.digest, "n = 0"),
    )
    over = "OVER (PARTITION BY u ORDER BY w ROWS UNBOUNDED PRECEDING)"
    query = f"""
        SELECT u, w, {attribute_tiles.tiles_sql((SPENT, LAST), "tokens", "end_ms", over)}
        FROM (SELECT u, w, (CAST(w AS BIGINT) + 1) * 1000 AS end_ms,
                {attribute_tiles.window_tokens_sql("tokens")} AS tokens
              FROM (SELECT *, {attribute_tiles.event_tokens_sql("ms", tokens)} AS tokens
                    FROM numbers) GROUP BY u, w)"""
    rows = list(select(t_env, query))
    assert len(rows) == len({event[:2] for event in events})
    for user, last, text in rows:
        found = attribute_tiles.read_tiles(orjson.loads(text))
        expected = _tiles([event for event in events if event[0] == user and event[1] <= last])
        assert found == expected
        since = orjson.loads(attribute_tiles.tiles_since(text, last * 1_000))
        assert attribute_tiles.read_tiles(since) == {
            name: each._replace(tiles=[tile for tile in each.tiles if tile[0] >= last * 1_000])
            for name, each in expected.items()
        }


def _tiles(events: list[tuple[int, int, int, int]]) -> dict[str, AttributeTiles]:
    """The tiles of SPENT and LAST after all windows of these events of a user."""
    spent: dict[int, list[float]] = {}
    last: dict[int, list[float]] = {}
    for window in sorted({event[1] for event in events}):
        of_window = [event[2:] for event in events if event[1] == window]
        # Of one time, a restart comes after the numbers.
        for ms, number in sorted(of_window, key=lambda one: (one[0], one[1] == 0, one[1])):
            if number > 3:
                _, count, value = spent.get(start := ms // 100 * 100, (0, 0, 0))
                spent[start] = [start, count + 1, value + number]
            if number % 2:
                _, count, _ = last.get(start := ms // 500 * 500, (0, 0, 0))
                last[start] = [start, count + 1, number]
            elif number == 0:
                last.clear()
        end_ms = (window + 1) * 1_000
        spent = {start: tile for start, tile in spent.items() if start > end_ms - 1_100}
        while len(last) > 3:
            _, count, _ = last.pop(min(last))
            last[min(last)][1] += count
    return {
        each.attribute: AttributeTiles(
            each.aggregate, each.within_ms, each.tile_ms, [tiles[start] for start in sorted(tiles)]
        )
        for each, tiles in ((SPENT, spent), (LAST, last))
    }


def test_output_record_written_by_python_is_split_by_sql(
    t_env: TableEnvironment, rng: random.Random
) -> None:
    names = ("topic", "key", "reason", "detail", "record_topic", "partition", "offset", "value")
    records = []
    for number in range(ROWS):
        value = text(rng, 60) + "\x1d" * (number % 2)  # the value may contain separators
        if number % 3:
            alert = ("alerts", text(rng), value)
            records.append((output_records.record(*alert), (*alert[:2], *[""] * 5, value)))
        else:
            event = output_records.Refused("R", text(rng), str(number), str(rng.random()), value)
            user = text(rng)
            packed = output_records.rejected("rejected", "events", user, event)
            parts = ("rejected", user, "R", event.detail, "events", event.partition, event.offset)
            records.append((packed, (*parts, value)))
    register(
        t_env,
        "messages",
        [(number, packed) for number, (packed, _) in enumerate(records)],
        "number INT, message STRING",
    )
    columns = output_records.columns_sql()
    query = f"SELECT number, {', '.join(columns[name] for name in names)} FROM messages"
    found = {row[0]: tuple(row)[1:] for row in select(t_env, query)}
    assert found == {number: parts for number, (_, parts) in enumerate(records)}
