"""`liveprofile identity`: ids that belong to one person."""

import logging
from collections.abc import Iterable
from contextlib import closing
from typing import Annotated, Any

import typer

from cli.common import Call, end_without_result, table
from liveprofile.consent.changes import PersonConsentTable
from liveprofile.errors import InputError
from liveprofile.feeds.feed import TableTail
from liveprofile.feeds.users import (
    consents_spec,
    erasures_spec,
    merges_spec,
    read_erasures,
    read_merges,
)
from liveprofile.identity.merges import (
    END_OF_TIME_MS,
    IdentityTable,
    Merge,
    MergeError,
    merge_json,
    merged,
    of_persons,
    to_record,
)
from liveprofile.identity.merges import split as split_merge
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import send_all
from liveprofile.settings import Settings
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import ID_CHARS
from liveprofile.wire.user_records import CONTENT_TYPE, key_of
from services.logins import Decisions, LoginMerger
from services.signals import stop_on_signals

SPLIT_DAYS = 30  # age of a merge up to which it can be split


def merge(
    call: Call,
    alias: Annotated[str | None, typer.Argument()] = None,
    user: Annotated[str | None, typer.Argument()] = None,
    split: str | None = None,
    show: str | None = None,
    all_merges: Annotated[bool, typer.Option("--list")] = False,
) -> None:
    """Make ALIAS another id of USER, so that later events of both go to the profile of USER.

    It counts for events from `merges.delay_ms` after the command on; `liveprofile events
    recompute-late` brings in the earlier events of ALIAS. The job must follow merges
    (`merges.enabled`). Refused are circles, ids that are merged already, and erased users.
    Exit code 1: --show finds no other id.

    Example: `liveprofile identity merge session-7 42`

    Options:
    alias [ALIAS]: The id that is another user.
    user [USER]: Whose profile goes on.
    split ALIAS: From now on, ALIAS is an id of its own.
    show ID: Show all ids of the person.
    all_merges: Show all merges.
    """
    if sum((alias is not None, split is not None, show is not None, all_merges)) != 1:
        raise InputError("give ALIAS and USER, --split ALIAS, --show ID or --list")
    if alias is not None and user is None:
        raise InputError("give ALIAS and USER: whose profile goes on?")
    for name in (alias, user, split, show):
        if name is not None and (not name.strip() or len(name) > ID_CHARS):
            raise InputError(f"id {name!r:.40}: must have 1 to {ID_CHARS} characters")
    settings = _settings(call)
    partition_ranges(settings, settings.topics.merges)  # a missing topic is an error
    identity, clock_ms = read_merges(settings), now_ms()
    since_ms = clock_ms + settings.merges.delay_ms
    if all_merges:
        call.rows(_rows(identity, identity.aliases()), COLUMNS, empty="no merges")
    elif show is not None:
        ids = identity.ids_of(show, END_OF_TIME_MS)
        rows = _rows(identity, identity.ever_merged(show))
        person = {"user_id": show, "person": identity.resolve(show, END_OF_TIME_MS), "ids": ids}
        call.print(person | {"merges": rows}, person, table(None, rows, COLUMNS))
        if len(ids) == 1:
            end_without_result(f"{show!r} has no other id")
    elif split is not None:
        limit_ms = round(SPLIT_DAYS * DAY_MS)
        _send(call, split, split_merge(identity, split, since_ms, clock_ms, limit_ms))
    else:
        merges = merged(identity, alias or "", user or "", since_ms)
        erased, persons = read_erasures(settings), of_persons(identity, [alias or "", user or ""])
        if gone := [each for each in persons if each in erased]:
            raise MergeError(f"user {gone[0]!r} was erased: an erased user cannot be merged")
        _send(call, alias or "", merges)


COLUMNS = "alias_id user_id since until"


def _settings(call: Call) -> Settings:
    """Raises InputError if the job does not follow merges."""
    if not call.settings.merges.enabled:
        raise InputError(
            "merges.enabled is off: the job would not follow merges. Set it and submit the job"
            " again (docs/privacy.md)"
        )
    return call.settings


def _send(call: Call, alias: str, merges: tuple[Merge, ...]) -> None:
    record = (key_of(alias), to_record(alias, merges), CONTENT_TYPE)
    send_all(call.settings, call.settings.topics.merges, [record])
    call.print({"alias_id": alias} | _fields(merges[-1]))


def _rows(identity: IdentityTable, ids: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"alias_id": alias_id} | _fields(each)
        for alias_id in ids
        for each in identity.merges(alias_id)
    ]


def _fields(merge: Merge) -> dict[str, Any]:
    return {"until": None} | merge_json(merge)


def link_logins(call: Call) -> None:
    """Merge anonymous ids into the accounts that they log in to, until Ctrl-C or SIGTERM.

    The first login of an `anonymous_id` in the input topic writes a merge, exactly once. Every
    other one is counted with its reason (docs/privacy.md). At the end the counts are printed. A
    second one takes over, and the first ends with exit code 3. The job must follow merges
    (`merges.enabled`).

    Example: `liveprofile identity link-logins --config liveprofile.toml --json`
    """
    settings = _settings(call)
    logging.getLogger("services.logins").setLevel(logging.INFO)
    with (
        closing(TableTail(settings, merges_spec(settings))) as merges,
        closing(TableTail(settings, consents_spec(settings))) as consents,
        closing(TableTail(settings, erasures_spec(settings))) as erasures,
    ):

        def read_decisions() -> Decisions:
            identity = merges.read().value()
            of_persons = PersonConsentTable(
                consents.read().value(), identity, settings.consent.defaults
            )
            return Decisions(identity, of_persons, erasures.read().value())

        merger = LoginMerger.connect(settings, read_decisions)
        with stop_on_signals(merger):
            counts = merger.run()
    call.print(counts)
