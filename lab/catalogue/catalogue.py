"""Reads and writes a shop's catalogue: a Parquet file with vectors of its items.

A row is an item: `item_id`, and lists of numbers in columns whose names end in `_embedding`. All
lists of a column have the same length; any list may be missing. `encode_texts` creates a catalogue
from a file with texts.

Shape suffixes: I items; W total width of an item's vectors.
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

ID_COLUMN, VECTOR_SUFFIX = "item_id", "_embedding"
TEXT_COLUMN = f"text{VECTOR_SUFFIX}"
ENCODER_KEY = b"encoder"  # key in a column's metadata


class VectorColumn(NamedTuple):
    """A column of vectors."""

    width: int
    encoder: str  # name of the encoder; "" if the file has none


class Catalogue(NamedTuple):
    """Items and their vectors."""

    items: list[str]
    columns: dict[str, VectorColumn]
    vectors_IW: np.ndarray  # float32: unit vectors of all columns side by side, zeros if missing

    @classmethod
    def read(cls, file: Path) -> Catalogue:
        """Raises InputError naming the file and the invalid column."""
        table = _read_table(file)
        names = [name for name in table.column_names if name.endswith(VECTOR_SUFFIX)]
        for name, present in (
            (ID_COLUMN, ID_COLUMN in table.column_names),
            (f"*{VECTOR_SUFFIX}", names),
        ):
            if not present:
                raise InputError(f"catalogue {file}: column {name} is missing")
        columns, vectors = {}, []
        for name in names:
            vectors.append(_normalize(_read_vectors(file, name, table[name])))
            metadata = table.field(name).metadata or {}
            encoder = metadata.get(ENCODER_KEY, b"").decode()
            columns[name] = VectorColumn(vectors[-1].shape[1], encoder)
        return cls(_read_ids(file, table, ID_COLUMN), columns, np.concatenate(vectors, 1))

    def vectors(self, items: Sequence[str]) -> np.ndarray:
        """(len(items), W); zeros for an item that is not in the catalogue."""
        row_of = {item: row for row, item in enumerate(self.items)}
        rows = np.array([row_of.get(item, -1) for item in items], np.int64)
        vectors = np.zeros((len(items), self.vectors_IW.shape[1]), np.float32)
        vectors[rows >= 0] = self.vectors_IW[rows[rows >= 0]]
        return vectors

    def items_with_vectors(self) -> list[str]:
        """The items that have at least one vector."""
        has_vector_I = self.vectors_IW.any(1)
        return [item for item, has in zip(self.items, has_vector_I, strict=True) if has]

    def fingerprint(self) -> str:
        """SHA-256 of the vectors, the columns and the items."""
        # Model cards store fingerprints, so this text must not change.
        columns = ", ".join(
            f"{name!r}: Modality(width={column.width!r}, encoder={column.encoder!r})"
            for name, column in self.columns.items()
        )
        description = f"({{{columns}}}, {self.items!r})"
        digest = hashlib.sha256(self.vectors_IW)
        digest.update(description.encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def encode_texts(
    file: Path,
    id_column: str,
    text_columns: Sequence[str],
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encodes the texts of a file (Parquet, or CSV with a header) and writes a catalogue.

    An item's text is its text columns joined by spaces. Columns of other vectors are kept. Returns
    the number of items. Raises InputError for an invalid file.
    """
    table = _read_table(file, [id_column, *text_columns])
    for name in (id_column, *text_columns):
        if name not in table.column_names:
            raise InputError(f"catalogue {file}: column {name} is missing")
    ids = _read_ids(file, table, id_column)
    parts = [table[name].cast(pa.string()).fill_null("") for name in text_columns]
    texts = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*parts, " ")).to_pylist()
    vectors = pa.FixedSizeListArray.from_arrays(
        text_encoder.encode(texts, on_progress).ravel(), text_encoder.WIDTH
    )
    encoded = pa.table({ID_COLUMN: ids}).append_column(
        pa.field(TEXT_COLUMN, vectors.type, metadata={ENCODER_KEY: text_encoder.ENCODER}), vectors
    )
    for name in table.column_names:
        if name.endswith(VECTOR_SUFFIX) and name != TEXT_COLUMN:
            encoded = encoded.append_column(table.field(name), table[name])
    # Rows with equal texts are adjacent, so that their vectors compress well.
    order = sorted(range(len(texts)), key=texts.__getitem__)
    pq.write_table(encoded.take(order), out, compression="zstd", use_dictionary=False)
    return len(ids)


def _read_table(file: Path, string_columns: Sequence[str] = ()) -> pa.Table:
    """The whole file. `string_columns` of a CSV file are read as strings, never as numbers."""
    try:
        if file.suffix == ".csv":
            types = dict.fromkeys(string_columns, pa.string())
            return pa.csv.read_csv(file, convert_options=pa.csv.ConvertOptions(column_types=types))
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"catalogue {file}: {str(error).splitlines()[0]}") from None


def _read_ids(file: Path, table: pa.Table, column: str) -> list[str]:
    ids = table[column].cast(pa.string()).to_pylist()
    if not all(ids) or len(set(ids)) < len(ids):
        raise InputError(f"catalogue {file}: {column} must name each row's item, each item once")
    return ids


def _read_vectors(file: Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """(I, width) float32; zeros for a missing list."""
    try:
        lists = column.drop_null()
        widths = pc.unique(pc.list_value_length(lists)).to_pylist()
        values = pc.list_flatten(lists).cast(pa.float32()).to_numpy()
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


def _normalize(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
