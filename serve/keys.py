"""API keys: form, hash, and their rows in Cassandra.

A key is `lp_<id>_<secret>`. The secret has 256 random bits, so that a plain SHA-256 of it cannot be
inverted by trial: the slow hashes for passwords would only delay requests. The table has the hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import InputError, LiveprofileError
from liveprofile.rows.operations import API_KEY
from liveprofile.storage.cql import execute, from_ms, read
from liveprofile.storage.queries import columns, select
from liveprofile.units import SECOND_MS

KEY_FORM = re.compile(r"lp_([0-9a-f]{12})_([0-9a-f]{64})")
NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class Scope(StrEnum):
    """What a key may do. No scope includes another one."""

    PROFILES = "profiles"  # read what is stored of one user, without risk
    LISTS = "lists"  # read profiles and ids of many users: serve.max_listed_users_per_day
    RISK = "risk"  # read alerts, flags, scores, snoozes and cases
    RULES = "rules"
    SEGMENTS = "segments"  # read definitions and sizes
    CAMPAIGNS = "campaigns"
    TRENDS = "trends"
    OPERATIONS = "operations"  # read metrics, the job, models, rejected records
    RISK_WRITE = "risk:write"  # change states, labels and snoozes
    RULES_PROPOSE = "rules:propose"
    RULES_WRITE = "rules:write"  # change rules, approve proposed ones
    SEGMENTS_WRITE = "segments:write"
    CAMPAIGNS_WRITE = "campaigns:write"
    PRIVACY = "privacy"  # read and change consents, erase users
    AUDIT = "audit"  # read the audit trail


Scopes = frozenset[str]
READER: Scopes = frozenset(each for each in Scope if ":" not in each) - {"privacy", "audit"}
ANALYST = READER | {"risk:write", "rules:propose", "segments:write", "campaigns:write"}
ADMIN: Scopes = frozenset(Scope)
# What `serve key create` takes instead of each scope by name.
SETS: dict[str, Scopes] = {"reader": READER, "analyst": ANALYST, "admin": ADMIN}


def scopes_of(names: Collection[str]) -> Scopes:
    """The scopes of names of scopes and SETS. Raises InputError for another name, and for none."""
    known = {each.value: frozenset((each.value,)) for each in Scope} | SETS
    if not names or not known.keys() >= set(names):
        raise InputError(f"scopes {', '.join(names)}: known are {', '.join(known)}")
    return frozenset().union(*(known[name] for name in names))


class StoredKey(NamedTuple):
    """A row of api_key."""

    key_id: str
    name: str
    scopes: Scopes
    secret_hash: bytes
    created_at_ms: int
    created_by: str
    expires_at_ms: int
    revoked_at_ms: int | None

    def accepts(self, secret: str | None, at_ms: int) -> bool:
        """Whether the key is in force, and the secret, if there is one, is this key's."""
        same = secret is None or hmac.compare_digest(self.secret_hash, hash_secret(secret))
        return same and self.revoked_at_ms is None and at_ms < self.expires_at_ms


class UnknownKeyError(LiveprofileError):
    """No key has this id. Exit code 1."""


class NewKey(NamedTuple):
    text: str  # what the caller sends; it cannot be read again
    stored: StoredKey


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def parse_key(text: str) -> tuple[str, str] | None:
    """Returns (id, secret), None if the text has not the form of a key."""
    match = KEY_FORM.fullmatch(text)
    return (match[1], match[2]) if match else None


def new_key(name: str, scopes: Scopes, created_by: str, now_ms: int, ttl_s: int) -> NewKey:
    """Makes a key. Raises InputError for a name that logs and tables should not have."""
    if not NAME_FORM.fullmatch(name):
        raise InputError(
            f"key name {name!r}: use 1 to 64 letters, digits, dots, dashes, underscores or @"
        )
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    stored = StoredKey(
        key_id,
        name,
        scopes,
        hash_secret(secret),
        now_ms,
        created_by,
        now_ms + ttl_s * SECOND_MS,
        None,
    )
    return NewKey(f"lp_{key_id}_{secret}", stored)


def key_of_row(row: tuple) -> StoredKey:
    """A row of the columns of StoredKey as a StoredKey."""
    key = StoredKey(*row)
    return key._replace(scopes=frozenset(key.scopes or ()))


def select_key_cql() -> str:
    """The statement that reads one key, with a bind marker."""
    return select(API_KEY.name, StoredKey, "key_id = ?")


def write_key(session: Session, key: StoredKey, now_ms: int) -> None:
    """Inserts or replaces the whole row, which expires when the key does. Raises ServiceError."""
    ttl_s = max(1, (key.expires_at_ms - now_ms) // SECOND_MS)
    # The driver would encode an enum as a list.
    secret = (key.key_id, key.name, set(map(str, key.scopes)), key.secret_hash)
    values = (*secret, from_ms(key.created_at_ms), key.created_by, from_ms(key.expires_at_ms))
    revoked_at = None if key.revoked_at_ms is None else from_ms(key.revoked_at_ms)
    execute(session, API_KEY.insert(ttl_s, time="", mark="%s"), (*values, revoked_at))


def read_keys(session: Session) -> list[StoredKey]:
    """All keys that have not expired, also revoked ones, by creation time. Keys are few."""
    rows = read(session, f"SELECT {columns(StoredKey)} FROM {API_KEY.name}")
    return sorted(map(key_of_row, rows), key=lambda key: key.created_at_ms)


def revoke_key(session: Session, key_id: str, now_ms: int) -> StoredKey:
    """Ends a key and returns its row. A revoked key stays as it is. Raises UnknownKeyError."""
    row = read(session, select_key_cql().replace("?", "%s"), (key_id,)).one()
    if row is None:
        raise UnknownKeyError(f"no key {key_id!r}; `liveprofile serve key list` lists the keys")
    key = key_of_row(row)
    if key.revoked_at_ms is not None:
        return key
    revoked = key._replace(revoked_at_ms=now_ms)
    write_key(session, revoked, now_ms)
    return revoked
