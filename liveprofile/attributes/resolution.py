"""Which of several statements about a user counts.

Of one source, the statement with the newest time counts, also after it has expired: an older one
does not come back. Among sources, the newest time wins for each attribute, then the kind (verified
before declared before third-party), then the source's name. Two statements of one source and time
contradict each other: the kind decides, then the content. So the result depends on the statements
alone, not on the order of their arrival.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from liveprofile.attributes.statements import KINDS, PURPOSES, Purpose, Statement, StatementKind
from liveprofile.rules.attribute_columns import AttributeValue

# Which purposes allow which use.
SEGMENT_PURPOSES: frozenset[Purpose] = frozenset({"any", "marketing"})
RULE_PURPOSES: frozenset[Purpose] = frozenset({"any", "risk"})


class Attribute(NamedTuple):
    """The value of one attribute of a user, and who says so."""

    value: AttributeValue
    source: str
    kind: StatementKind
    purpose: Purpose
    time_ms: int
    expires_ms: int


def latest_by_source(statements: Iterable[Statement]) -> list[Statement]:
    """The statement of each source that counts, expired ones included. All are of one user."""
    latest: dict[str, Statement] = {}
    for statement in statements:
        known = latest.get(statement.source)
        if known is None or _age_order(statement) > _age_order(known):
            latest[statement.source] = statement
    return [latest[source] for source in sorted(latest)]


def resolve(
    statements: Iterable[Statement], at_ms: int, purposes: Collection[Purpose] = PURPOSES
) -> dict[str, Attribute]:
    """A user's attributes at a time, by name. statements: of one user; purposes: of the use."""
    valid = [
        statement
        for statement in latest_by_source(statements)
        if statement.expires_ms > at_ms and statement.purpose in purposes
    ]
    valid.sort(key=lambda one: (one.time_ms, KINDS.index(one.kind), one.source))
    found: dict[str, Attribute] = {}
    for one in valid:  # the last one wins
        for name, value in one.values.items():
            found[name] = Attribute(
                value, one.source, one.kind, one.purpose, one.time_ms, one.expires_ms
            )
    return dict(sorted(found.items()))


def attribute_values(
    statements: Sequence[Statement], at_ms: int, purposes: Collection[Purpose]
) -> dict[str, AttributeValue]:
    """The values of `resolve`."""
    if not statements:
        return {}
    return {name: one.value for name, one in resolve(statements, at_ms, purposes).items()}


def _age_order(statement: Statement) -> tuple[int, int, bytes]:
    return statement.time_ms, KINDS.index(statement.kind), statement.content
