"""Generated card transactions with frauds, as columns and as a file."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from liveprofile.units import DAY_MS
from models.fraud.card_transactions.data import ColumnNames, Transactions

START_DAY = (date(2018, 4, 1) - date(1970, 1, 1)).days
DELAY_DAYS = 3


def make_transactions(count: int = 1_500, days: int = 50, seed: int = 7) -> Transactions:
    """Terminals are compromised for ten days; some cards spend far more than usual for a week."""
    random = np.random.default_rng(seed)
    time_ms = np.sort(random.integers(START_DAY * DAY_MS, (START_DAY + days) * DAY_MS, count))
    card, terminal = random.integers(0, 40, count), random.integers(0, 25, count)
    amount = np.round(random.lognormal(3, 0.3, count) * (1 + card % 5), 2)
    day = time_ms // DAY_MS - START_DAY
    bad = (day // 10 % 25 == terminal) | (day // 10 % 25 == terminal - 10)
    leaked = (day // 7 == card % 40) & (random.random(count) < 0.5)
    return Transactions(time_ms, card, terminal, np.where(leaked, 5 * amount, amount), bad | leaked)


def write_transactions(data: Transactions, file: Path, **column_names: str) -> Path:
    """Writes a Parquet file with the rows in random order."""
    names = ColumnNames()._replace(**column_names)
    table = pa.table(
        {
            names.id: np.arange(len(data.time_ms_N)),
            names.time: pa.array(data.time_ms_N, pa.timestamp("ms")),
            names.card: data.card_N,
            names.terminal: data.terminal_N,
            names.amount: data.amount_N,
            names.fraud: data.fraud_N.astype(np.int64),
        }
    )
    pq.write_table(table.take(np.random.default_rng(1).permutation(len(table))), file)
    return file
