"""`liveprofile serve key`: creates, lists and revokes the keys of the read API."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.common import ConfigOption, JsonOption, format_utc, print_json, read_settings
from cli.options import Commands
from liveprofile.units import DAY_MS, SECOND_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from liveprofile.settings import Settings
    from serve.keys import StoredKey

key = Commands(name="key", help="Keys of the read API (docs/api.md).")


@key.command()
def create(
    name: str,
    role: Literal["reader", "analyst", "privacy", "admin"] = "reader",
    days: Annotated[int | None, typer.Option(min=1, max=7_300)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Create a key and print it once: only its hash is stored.

    Example: `liveprofile serve key create shop-frontend --role reader --days 90`

    Options:
    name NAME: Who uses the key: the analyst of its writes.
    role: reader: reads; analyst: also writes; privacy: reads, consents and erasures; admin:
        everything.
    days: Default: serve.api_key_ttl_s.
    """
    from liveprofile.storage.cql import now_ms
    from serve.keys import Role, new_key, write_key

    settings = read_settings(config)
    ttl_s = settings.serve.api_key_ttl_s if days is None else days * DAY_MS // SECOND_MS
    now = now_ms()
    made = new_key(name, Role(role), getpass.getuser(), now, ttl_s)
    with _session(settings) as session:
        write_key(session, made.stored, now)
    if json:
        print_json(_public(made.stored) | {"key": made.text})
        return
    typer.echo(made.text)
    until = format_utc(made.stored.expires_at_ms)
    typer.echo(
        f"key {made.stored.key_id} of {name}, role {role}, until {until}; it is not shown again",
        err=True,
    )


@key.command("list")
def list_keys(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the keys without their secrets, also revoked ones until they expire.

    Example: `liveprofile serve key list --json`
    """
    from serve.keys import read_keys

    with _session(read_settings(config)) as session:
        keys = read_keys(session)
    if json:
        print_json([_public(each) for each in keys])
        return
    for each in keys:
        revoked = each.revoked_at_ms
        state = (
            f"until {format_utc(each.expires_at_ms)}"
            if revoked is None
            else f"revoked {format_utc(revoked)}"
        )
        typer.echo(f"{each.key_id}  {each.role:<7}  {each.name}  {state}")
    if not keys:
        typer.echo("no keys", err=True)


@key.command()
def revoke(
    key_id: str,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """End a key; servers stop accepting it within serve.key_cache_ms. Exit code 1: unknown id.

    Example: `liveprofile serve key revoke 3f9a0c21b7d4`

    Options:
    key_id ID: Id of the key: its middle part.
    """
    from liveprofile.storage.cql import now_ms
    from serve.keys import revoke_key

    with _session(read_settings(config)) as session:
        revoked = revoke_key(session, key_id, now_ms())
    if json:
        print_json(_public(revoked))
    else:
        typer.echo(f"key {key_id} of {revoked.name} is revoked")


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    """A session; tables of the API that an older keyspace lacks are created first."""
    from liveprofile.storage.connection import open_session
    from liveprofile.storage.schema import create_api_tables

    create_api_tables(settings.cassandra)
    with open_session(settings.cassandra) as session:
        yield session


def _public(stored: StoredKey) -> dict[str, Any]:
    """A key without its hash."""
    fields = stored._asdict()
    del fields["secret_hash"]
    return fields
