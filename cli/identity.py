"""`liveprofile identity`: ids that belong to one person."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    ConfigOption,
    JsonOption,
    format_utc,
    print_fields,
    print_json,
    print_table,
    read_settings,
)
from liveprofile.errors import InputError
from liveprofile.settings import Settings
from liveprofile.units import DAY_MS
from liveprofile.wire.tokens import ID_CHARS

SPLIT_DAYS = 30  # age of a merge up to which it can be split

if TYPE_CHECKING:
    from liveprofile.identity.book import IdentityBook, Merge


def merge(
    alias: Annotated[str | None, typer.Argument()] = None,
    user: Annotated[str | None, typer.Argument()] = None,
    split: str | None = None,
    show: str | None = None,
    all_merges: Annotated[bool, typer.Option("--list")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make ALIAS another id of USER, so that later events of both go to the profile of USER.

    It counts for events from `merges.delay_ms` after the command on.
    `liveprofile events recompute-late` brings the earlier events of ALIAS into the profile of USER.
    The job must follow merges (`merges.enabled`). Refused are circles, ids that are merged already,
    and erased users. Exit code 1: --show finds no other id.

    Example: `liveprofile identity merge session-7 42`,
    `liveprofile identity merge --split session-7`, `liveprofile identity merge --show 42` or
    `liveprofile identity merge --list --json`

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
    settings = read_settings(config)
    if not settings.merges.enabled:
        raise InputError(
            "merges.enabled is off: the job would not follow merges. Set it and submit the job"
            " again (docs/privacy.md)"
        )
    if all_merges:
        _print_merges(_book(settings), None, json)
    elif show is not None:
        _show(_book(settings), show, json)
    elif split is not None:
        _split(settings, split, json)
    else:
        _merge(settings, alias or "", user or "", json)


def _book(settings: Settings) -> IdentityBook:
    from liveprofile.feeds.users import read_merges
    from liveprofile.kafka.offsets import partition_ranges

    partition_ranges(settings, settings.topics.merges)  # a missing topic is an error
    return read_merges(settings)


def _now_ms() -> int:
    return round(time.time() * 1_000)


def _merge(settings: Settings, alias: str, user: str, json: bool) -> None:
    from liveprofile.feeds.users import read_erasures
    from liveprofile.identity.book import MergeError, merged, of_persons

    book, erased = _book(settings), read_erasures(settings)
    merges = merged(book, alias, user, _now_ms() + settings.merges.delay_ms)
    if gone := [each for each in of_persons(book, [alias, user]) if each in erased]:
        raise MergeError(f"user {gone[0]!r} was erased: an erased user cannot be merged")
    _send(settings, alias, merges, json)


def _split(settings: Settings, alias: str, json: bool) -> None:
    from liveprofile.identity.book import split

    now_ms, options = _now_ms(), settings.merges
    limit_ms = round(SPLIT_DAYS * DAY_MS)
    merges = split(_book(settings), alias, now_ms + options.delay_ms, now_ms, limit_ms)
    _send(settings, alias, merges, json)


def _send(settings: Settings, alias: str, merges: tuple[Merge, ...], json: bool) -> None:
    from liveprofile.identity.records import to_record
    from liveprofile.kafka.records import send_all
    from liveprofile.wire.user_records import CONTENT_TYPE, key_of

    record = (key_of(alias), to_record(alias, merges), CONTENT_TYPE)
    send_all(settings, settings.topics.merges, [record])
    last = merges[-1]
    if json:
        print_json({"alias_id": alias} | _fields(last))
    elif last.until_ms is None:
        since = format_utc(last.since_ms)
        typer.echo(f"{alias} is {last.user_id}, for events from {since} on")
    else:
        until = format_utc(last.until_ms)
        typer.echo(f"{alias} is an id of its own again, for events from {until} on")


def _show(book: IdentityBook, user: str, json: bool) -> None:
    from liveprofile.identity.book import END_OF_TIME_MS

    ids = book.ids_of(user, END_OF_TIME_MS)
    person = book.resolve(user, END_OF_TIME_MS)
    if json:
        print_json({"user_id": user, "person": person, "ids": ids, "merges": _rows(book, user)})
    else:
        typer.echo(f"{user} is {person}, with the ids {', '.join(ids)}")
        _print_merges(book, user, json)
    if len(ids) == 1:
        typer.echo(f"liveprofile: {user!r} has no other id", err=True)
        raise typer.Exit(1)


def _print_merges(book: IdentityBook, user: str | None, json: bool) -> None:
    rows = _rows(book, user)
    if json:
        print_json(rows)
        return
    print_table(
        "Merges",
        ["alias", "user", "since", "until"],
        [[row["alias_id"], row["user_id"], row["since"], row["until"] or ""] for row in rows],
    )


def _rows(book: IdentityBook, user: str | None) -> list[dict[str, Any]]:
    """All merges, or those of all ids that were ever merged with the user."""
    ids = book.aliases() if user is None else book.ever_merged(user)
    return [
        {"alias_id": alias_id} | _fields(each) for alias_id in ids for each in book.merges(alias_id)
    ]


def _fields(merge: Merge) -> dict[str, Any]:
    from liveprofile.identity.records import merge_json

    return {"until": None} | merge_json(merge)


def link_logins(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Merge anonymous ids into the accounts that they log in to, until Ctrl-C or SIGTERM.

    It follows the input topic. An event with `anonymous_id` says that its user has used this id on
    this device before. The first login of an anonymous id writes a merge, as
    `liveprofile identity merge` does, exactly once. Every other one is counted with its reason:
    conflicts, split ids, erased users, no consent, ids that are not as
    `logins.anonymous_id_pattern` says. docs/privacy.md has the reasons. At the end the counts are
    printed.

    Run it once. A second one takes over, and the first ends with exit code 3. The job must follow
    merges (`merges.enabled`).

    Example: `liveprofile identity link-logins --config liveprofile.toml --json`
    """
    from liveprofile.alerts.consumer.loop import stop_on_signals
    from liveprofile.consent.changes import PersonConsentBook
    from liveprofile.feeds.feed import TableTail
    from liveprofile.feeds.users import consents_spec, erasures_spec, merges_spec
    from liveprofile.identity.login_service import LoginMerger
    from liveprofile.identity.logins import Books

    settings = read_settings(config)
    if not settings.merges.enabled:
        raise InputError(
            "merges.enabled is off: the job would not follow merges. Set it and submit the job"
            " again (docs/privacy.md)"
        )
    logging.getLogger("liveprofile.identity").setLevel(logging.INFO)
    with (
        closing(TableTail(settings, merges_spec(settings))) as merges,
        closing(TableTail(settings, consents_spec(settings))) as consents,
        closing(TableTail(settings, erasures_spec(settings))) as erasures,
    ):

        def read_books() -> Books:
            book = merges.current()
            of_persons = PersonConsentBook(consents.current(), book, settings.consent.defaults)
            return Books(book, of_persons, erasures.current())

        merger = LoginMerger.connect(settings, read_books)
        with stop_on_signals(merger):
            counts = merger.run()
    print_json(counts) if json else print_fields(counts)
