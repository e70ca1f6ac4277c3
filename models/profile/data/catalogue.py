"""A shop's catalogue: vectors of its items, whatever they were made of, in one Parquet file.

A row is an item: `item_id`, and lists of numbers in columns whose names end in `_embedding`, all of
one column equally long. An item may lack any of them. `encode_texts` makes such a file of one with
texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from models.profile import text_encoder

ID, SUFFIX = "item_id", "_embedding"
TEXT = f"text{SUFFIX}"
ENCODER = b"encoder"  # of a column: the key in its metadata


class Modality(NamedTuple):
    """The vectors of one column."""

    width: int
    encoder: str  # what made them; "" if the file doesn't say


class Catalogue(NamedTuple):
    """Items and their vectors, those of each modality of length 1, zeros where an item has none.

    vectors_IW: float32, the modalities side by side.
    """

    items: list[str]
    modalities: dict[str, Modality]
    vectors_IW: np.ndarray

    @classmethod
    def read(cls, file: Path) -> Catalogue:
        """Raises InputError naming the file and the column that is wrong."""
        table = _table(file)
        names = [name for name in table.column_names if name.endswith(SUFFIX)]
        for name, there in ((ID, ID in table.column_names), (f"*{SUFFIX}", names)):
            if not there:
                raise InputError(f"catalogue {file}: column {name} is missing")
        modalities, columns = {}, []
        for name in names:
            columns.append(_unit(_vectors(file, name, table[name])))
            metadata = table.field(name).metadata or {}
            encoder = metadata.get(ENCODER, b"").decode()
            modalities[name] = Modality(columns[-1].shape[1], encoder)
        return cls(_ids(file, table, ID), modalities, np.concatenate(columns, 1))

    def vectors(self, items: Sequence[str]) -> np.ndarray:
        """(len(items), W); zeros for an item that the catalogue lacks."""
        row = {item: row for row, item in enumerate(self.items)}
        found = np.array([row.get(item, -1) for item in items], np.int64)
        vectors = np.zeros((len(items), self.vectors_IW.shape[1]), np.float32)
        vectors[found >= 0] = self.vectors_IW[found[found >= 0]]
        return vectors

    def described(self) -> list[str]:
        """The items that have any vector."""
        some = self.vectors_IW.any(1)
        return [item for item, has in zip(self.items, some, strict=True) if has]

    def fingerprint(self) -> str:
        """SHA-256 of all that a model may learn of it."""
        digest = hashlib.sha256(self.vectors_IW)
        digest.update(repr((self.modalities, self.items)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def encode_texts(
    file: Path,
    id_column: str,
    text_columns: Sequence[str],
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes the catalogue of a file (Parquet, or CSV with a header) and returns its items.

    An item's text is its text columns joined by spaces; other columns of vectors are kept. Raises
    InputError.
    """
    table = _table(file, [id_column, *text_columns])
    for name in (id_column, *text_columns):
        if name not in table.column_names:
            raise InputError(f"catalogue {file}: column {name} is missing")
    ids = _ids(file, table, id_column)
    parts = [table[name].cast(pa.string()).fill_null("") for name in text_columns]
    found = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*parts, " ")).to_pylist()
    vectors = pa.FixedSizeListArray.from_arrays(
        text_encoder.encode(found, on_progress).ravel(), text_encoder.WIDTH
    )
    encoded = pa.table({ID: ids}).append_column(
        pa.field(TEXT, vectors.type, metadata={ENCODER: text_encoder.ENCODER}), vectors
    )
    for name in table.column_names:
        if name.endswith(SUFFIX) and name != TEXT:
            encoded = encoded.append_column(table.field(name), table[name])
    # Equal texts lie together, so that their vectors pack well.
    order = sorted(range(len(found)), key=found.__getitem__)
    pq.write_table(encoded.take(order), out, compression="zstd", use_dictionary=False)
    return len(ids)


def _table(file: Path, as_text: Sequence[str] = ()) -> pa.Table:
    """All of a file; columns `as_text` of a CSV are not taken for numbers."""
    try:
        if file.suffix == ".csv":
            kinds = dict.fromkeys(as_text, pa.string())
            return pa.csv.read_csv(file, convert_options=pa.csv.ConvertOptions(column_types=kinds))
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"catalogue {file}: {str(error).splitlines()[0]}") from None


def _ids(file: Path, table: pa.Table, column: str) -> list[str]:
    ids = table[column].cast(pa.string()).to_pylist()
    if not all(ids) or len(set(ids)) < len(ids):
        raise InputError(f"catalogue {file}: {column} must name each row's item, each item once")
    return ids


def _vectors(file: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(I, width) float32; zeros for a missing list."""
    try:
        some = column.drop_null()
        widths = pc.unique(pc.list_value_length(some)).to_pylist()
        values = pc.list_flatten(some).cast(pa.float32()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"catalogue {file}: {name} is {column.type}, must be lists of numbers"
        ) from None
    if len(widths) != 1 or not widths[0]:
        raise InputError(f"catalogue {file}: lists in {name} must have one length, not {widths}")
    if not np.isfinite(values).all():
        raise InputError(f"catalogue {file}: {name} has a number that is not finite")
    vectors = np.zeros((len(column), widths[0]), np.float32)
    vectors[column.is_valid().to_numpy()] = values.reshape(-1, widths[0])
    return vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
