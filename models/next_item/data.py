"""Sequences of items, one a user: reading them, leaving the last two out, and full ranking.

The protocol is S3-Rec's (Zhou et al. 2020, arXiv:2008.07873): a user's last item is the test, the
one before it validation, all before that training; a model sees at most the last 50 items and ranks
all of them, those that the user has had left out.

Shape suffixes: U users, N all items of all sequences, B a batch of users, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from liveprofile.errors import InputError

MAX_LEN = 50
HELD_OUT = 2  # the last for the test, the one before it for validation
CUTS = (5, 10)
BATCH_USERS = 1_024


class Sequences(NamedTuple):
    """Items as codes 0..I-1, a user's in the order of time."""

    items: list[str]  # the name of each code
    item_N: np.ndarray  # int32
    starts_U: np.ndarray  # (U + 1,) int64: user u's are starts_U[u] to starts_U[u + 1]

    def histories(self, left_out: int) -> list[np.ndarray]:
        """Every user's items but the last `left_out`."""
        return [self.item_N[a : max(a, b - left_out)] for a, b in pairwise(self.starts_U.tolist())]

    def fingerprint(self) -> str:
        """SHA-256 of the sequences, in their order. No user's name enters."""
        digest = hashlib.sha256(self.starts_U.astype(np.int64))
        digest.update(self.item_N)
        digest.update("\x00".join(self.items).encode())
        return digest.hexdigest()

    def as_codes_of(self, items: list[str]) -> Sequences:
        """With the codes that the items have in this list. Raises InputError for one not in it."""
        code = {name: place for place, name in enumerate(items)}
        new = [name for name in self.items if name not in code]
        if new:
            raise InputError(
                f"{len(new)} items are not the model's, {new[0]} among them; train it anew"
            )
        code_I = np.array([code[name] for name in self.items], np.int32)
        return self._replace(items=items, item_N=code_I[self.item_N])


class Part(NamedTuple):
    """What is asked of B users: their items so far, and the next one."""

    histories: list[np.ndarray]
    target_B: np.ndarray


class Ranking(NamedTuple):
    """Hit rate and normalised discounted cumulative gain among all items."""

    hr_at_5: float
    ndcg_at_5: float
    hr_at_10: float
    ndcg_at_10: float


def read_s3rec(file: Path) -> Sequences:
    """Text: a line is a user and then that user's items, separated by spaces.

    Raises InputError naming the line that has no item or a user who was there before.
    """
    codes: dict[str, int] = {}
    users: set[str] = set()
    found, starts = [], [0]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sequences {file}: {error}") from None
    for number, line in enumerate(lines, 1):
        user, *names = line.split() or [""]
        if not user:
            continue
        if not names:
            raise InputError(f"sequences {file}: line {number}: a user without items")
        if user in users:
            raise InputError(f"sequences {file}: line {number}: user {user} comes twice")
        users.add(user)
        found += [codes.setdefault(name, len(codes)) for name in names]
        starts.append(len(found))
    if not users:
        raise InputError(f"sequences {file}: no users in it")
    return Sequences(list(codes), np.array(found, np.int32), np.array(starts))


READERS: dict[str, Callable[[Path], Sequences]] = {"s3rec": read_s3rec}


def training(data: Sequences) -> list[np.ndarray]:
    """The part of each sequence that models learn from; users who have too little are left out."""
    return [history for history in data.histories(HELD_OUT) if len(history) > 1]


def held_out(data: Sequences, part: str) -> Part:
    """`part`: "validation" or "test". Users with at least one item left in training."""
    last = 1 if part == "test" else HELD_OUT
    asked = np.flatnonzero(np.diff(data.starts_U) > HELD_OUT)
    histories = data.histories(last)
    ends = data.starts_U[1:]
    return Part([histories[user] for user in asked], data.item_N[ends[asked] - last])


def batches(part: Part) -> Iterator[Part]:
    """`part` in pieces of BATCH_USERS, whose scores fit into memory."""
    for first in range(0, len(part.target_B), BATCH_USERS):
        some = slice(first, first + BATCH_USERS)
        yield Part(part.histories[some], part.target_B[some])


def ranks(part: Part, score: Callable[[list[np.ndarray]], np.ndarray]) -> np.ndarray:
    """(B,) how many items come before the target. Ties count as before it.

    `score`: (b, I) float of the next item after each history, the higher the likelier; it may be
    changed here. A target that the user has had is never found.
    """
    found = []
    for piece in batches(part):
        score_BI = score(piece.histories)
        rows = np.arange(len(piece.target_B))
        had = np.repeat(rows, [len(history) for history in piece.histories])
        score_BI[had, np.concatenate(piece.histories)] = -np.inf
        target_B = score_BI[rows, piece.target_B]
        before_B = (score_BI >= target_B[:, None]).sum(1) - 1
        found.append(np.where(np.isneginf(target_B), score_BI.shape[1], before_B))
    return np.concatenate(found)


def measure(ranks_B: np.ndarray) -> Ranking:
    gain_B = 1.0 / np.log2(ranks_B + 2.0)
    values = {}
    for cut in CUTS:
        hit_B = ranks_B < cut
        values[f"hr_at_{cut}"] = float(hit_B.mean())
        values[f"ndcg_at_{cut}"] = float(np.where(hit_B, gain_B, 0.0).mean())
    return Ranking(**values)
