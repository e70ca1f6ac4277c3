"""Which users a model was trained on, and training rows without erased users.

A file beside a model's weights answers for one id at a time. It has no ids. It holds a Bloom filter
(Bloom 1970, doi:10.1145/362686.362692) of salted hashes for each training: that of the model, and
those of the models that it learned from. A user of the training is always found. Another one is
found with a probability of FALSE_POSITIVE_RATE for each filter. Who has an id can still ask whether
it is there, so the file is personal data: the job does not read it, and a model is served without
it.

Shape suffixes: U users, H hashes of a user.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from liveprofile.errors import InputError
from liveprofile.resources import sha256

FILE, CARD = "trained_users.json", "card.json"
FORMAT = 1
FALSE_POSITIVE_RATE = 1e-6  # 29 bits a user
USER_BYTES = 16


def user_key(user_id: str) -> bytes:
    """USER_BYTES bytes that stand for a user id (BLAKE2b, RFC 7693)."""
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=USER_BYTES)
    return digest.digest()


class UserFilter(NamedTuple):
    """A Bloom filter of the users of one training."""

    users: int
    salt: bytes
    hashes: int
    bits: np.ndarray  # bool

    @classmethod
    def of(cls, keys: Iterable[bytes], salt: bytes) -> UserFilter:
        """The filter of distinct `user_key`s. The same keys and salt give the same filter."""
        known = list(keys)
        hashes = math.ceil(-math.log2(FALSE_POSITIVE_RATE))
        bits = np.zeros(max(1, math.ceil(len(known) * hashes / math.log(2))), bool)
        for key in known:
            bits[_positions(key, salt, hashes, len(bits))] = True
        return cls(len(known), salt, hashes, bits)

    def has_key(self, key: bytes) -> bool:
        """Whether a user with this `user_key` may be in the filter."""
        return bool(self.bits[_positions(key, self.salt, self.hashes, len(self.bits))].all())


def _positions(key: bytes, salt: bytes, hashes: int, size: int) -> np.ndarray:
    """(H,) positions of a user's bits."""
    digest = hashlib.shake_128(salt + key).digest(8 * hashes)
    return np.frombuffer(digest, "<u8") % np.uint64(size)


class TrainedUsers(NamedTuple):
    """The users of a model: those of its own training first, then those of its teachers."""

    filters: tuple[UserFilter, ...]

    @classmethod
    def of_training(
        cls, keys: Iterable[bytes], rows: str, teacher: TrainedUsers | None = None
    ) -> TrainedUsers:
        """rows: the fingerprint of the training rows, from which the salt results."""
        salt = hashlib.sha256(f"trained users\x1f{rows}".encode()).digest()[:16]
        own = UserFilter.of(keys, salt)
        return cls((own, *teacher.filters) if teacher else (own,))

    def __contains__(self, user_id: str) -> bool:
        return self.has_key(user_key(user_id))

    def has_key(self, key: bytes) -> bool:
        """Whether a user with this `user_key` may be among the users."""
        return any(each.has_key(key) for each in self.filters)

    @property
    def users(self) -> int:
        """The number of users of the largest training."""
        return max((each.users for each in self.filters), default=0)


def write(folder: Path, weights: str, trained: TrainedUsers) -> None:
    """Writes the file for the model in `folder`. weights: the name of the file with its weights."""
    content = {
        "format": FORMAT,
        "of": {weights: sha256(folder / weights)},
        "false_positive_rate": FALSE_POSITIVE_RATE,
        "filters": [
            {
                "users": each.users,
                "salt": each.salt.hex(),
                "hashes": each.hashes,
                "size": len(each.bits),
                "bits": base64.b64encode(np.packbits(each.bits).tobytes()).decode(),
            }
            for each in trained.filters
        ],
    }
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> TrainedUsers | None:
    """The users of the model in `folder`; None if it has no such file.

    Raises InputError for a file that is damaged or belongs to other weights.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_bytes())
        if content["format"] != FORMAT:
            raise InputError(f"{file}: format {content['format']!r}: this version reads {FORMAT}")
        trained = TrainedUsers(tuple(map(_read_filter, content["filters"])))
        [(weights, expected)] = content["of"].items()
        actual = sha256(folder / weights)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{file}: unreadable ({reason}); train the model again") from None
    if actual != expected:
        raise InputError(f"{file}: describes other weights than {folder / weights}")
    return trained


def _read_filter(stored: dict) -> UserFilter:
    packed = np.frombuffer(base64.b64decode(stored["bits"], validate=True), np.uint8)
    if not 0 < stored["size"] <= 8 * len(packed) or stored["hashes"] < 1:
        raise ValueError("a filter has fewer bits than its size")
    bits = np.unpackbits(packed, count=stored["size"]).astype(bool)
    return UserFilter(stored["users"], bytes.fromhex(stored["salt"]), stored["hashes"], bits)


class TrainedCheckpoint(NamedTuple):
    """A model checkpoint and the erased users that it was trained on."""

    folder: Path
    version: str
    trained: TrainedUsers | None  # None: unknown
    erased: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether no erased user is in the training."""
        return self.trained is not None and not self.erased


def find_checkpoints(folder: Path, erased: Iterable[str]) -> Iterator[TrainedCheckpoint]:
    """The model checkpoints in the folder and below. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    users, cards = list(erased), sorted(folder.rglob(CARD))
    if not cards:
        raise InputError(f"{folder}: no model checkpoint ({CARD}) in it or below")
    for card in cards:
        trained = read(card.parent)
        found = [user for user in users if trained is not None and user in trained]
        yield TrainedCheckpoint(card.parent, _version(card), trained, found)


def _version(card: Path) -> str:
    try:
        return str(json.loads(card.read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{card}: no model card: {error}") from None


_USER, _NEW = "user_id", ".without-erased"


class FileRows(NamedTuple):
    file: Path
    kept: int
    erased: int


def erase_rows(folder: Path, users: Collection[str]) -> Iterator[FileRows]:
    """Rewrites the Parquet files that have rows of these users; yields each file of the folder.

    A file is replaced in one step, so a kill leaves it whole: repeat the command. A file without
    other rows is removed. Memory: one row group. Raises InputError.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    for left in folder.rglob(f"*{_NEW}"):  # of a run that was killed
        left.unlink()
    found = sorted(folder.rglob("*.parquet"))
    if not found:
        raise InputError(f"{folder}: no Parquet files")
    gone = pa.array(sorted(users), pa.string())
    for file in found:
        try:
            yield _erase_file(file, gone)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file}: {str(error).splitlines()[0]}") from None


def _erase_file(file: Path, gone: pa.Array) -> FileRows:
    with pq.ParquetFile(file) as source:
        if _USER not in source.schema_arrow.names:
            raise InputError(f"{file}: no column {_USER}: are these training rows?")
        total = source.metadata.num_rows
        groups = range(source.num_row_groups)
        erased = sum(
            pc.sum(pc.is_in(source.read_row_group(group, [_USER])[_USER], gone)).as_py() or 0
            for group in groups
        )
        if not erased:
            return FileRows(file, total, 0)
        new = file.with_name(f"{file.name}{_NEW}")
        with pq.ParquetWriter(new, source.schema_arrow) as writer:
            for group in groups:
                rows = source.read_row_group(group)
                writer.write_table(rows.filter(pc.invert(pc.is_in(rows[_USER], gone))))
    with new.open("rb") as written:
        os.fsync(written.fileno())
    if total == erased:
        new.unlink()
        file.unlink()
    else:
        new.replace(file)
    return FileRows(file, total - erased, erased)
