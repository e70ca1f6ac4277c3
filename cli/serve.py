"""`liveprofile serve`: the read API, the console, metrics, chores, and the keys of the API."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cli.common import Call, ConfigCall, format_utc, option
from cli.options import Commands
from liveprofile.settings import Settings, load
from liveprofile.storage.cql import now_ms
from liveprofile.units import DAY_MS, SECOND_MS
from serve.keys import StoredKey, new_key, read_keys, revoke_key, scopes_of, write_key

HostOption = Annotated[str | None, option("--host", "ADDRESS", "Setting serve.host.")]
PORT_HELP = "Default: of the settings. 0: any free port."
PortOption = Annotated[int | None, option("--port", None, PORT_HELP, min=0, max=65535)]


def api(call: Call, host: HostOption = None, port: PortOption = None, quiet: bool = False) -> None:
    """Serve profiles and alerts over HTTP until Ctrl-C (docs/api.md).

    Starts without Cassandra and answers 503 until it is there. With --json, the first line is
    {"url": ...}. The log goes to stderr, a line per request.

    Example: `liveprofile serve api --port 8070`

    Options:
    quiet: Log warnings only.
    """
    from serve.server import serve as run

    settings = _settings(call, serve={"host": host, "port": port})
    logging.getLogger("serve").setLevel(logging.WARNING if quiet else logging.INFO)
    run(settings, _started(call))


def console(call: Call, host: HostOption = None, port: PortOption = None) -> None:
    """Serve the console for analysts until Ctrl-C (docs/console.md).

    Keys, scopes, TLS and limits are those of `liveprofile serve api`. Starts without Cassandra.
    With --json, the first line is {"url": ...}.

    Example: `liveprofile serve console --port 8072`
    """
    from console.app import run_console

    settings = _settings(call, serve={"host": host, "console_port": port})
    run_console(settings, _started(call))


def metrics(call: Call, host: HostOption = None, port: PortOption = None) -> None:
    """Serve the figures of `liveprofile job status` and more as Prometheus metrics until Ctrl-C.

    docs/metrics.md lists them. Starts without Kafka, Cassandra and Flink, and reads each when it
    is there. With --json, the first line is {"url": ...}.

    Example: `liveprofile serve metrics --port 8071`
    """
    from monitoring.server import serve_metrics

    settings = _settings(call, serve={"host": host}, metrics={"port": port})
    serve_metrics(settings, _started(call))


def chores(call: ConfigCall) -> None:
    """Run what must be run again and again until Ctrl-C, each at the interval of its setting.

    Heartbeats, erasures, attributes, trends, late events, audits, consents and sweeps
    (docs/operate.md#chores). Of several copies one works, and another one takes over if it dies.
    Starts without Kafka and Cassandra.

    Example: `liveprofile serve chores`
    """
    from cli.chores import serve_chores

    _settings(call)
    serve_chores(call)


def _settings(call: Call, **options: dict[str, Any]) -> Settings:
    """Settings with the options that are given, by section; starts the log on stderr."""
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in options.items()
    }
    format_ = "%(asctime)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=format_, force=True)
    return load(call.file, **{section: values for section, values in given.items() if values})


def _started(call: Call) -> Callable[[str], None]:
    return lambda url: call.print({"url": url}, f"listening on {url}")


key = Commands(name="key", help="Keys of the read API (docs/api.md).")


@key.command()
def create(
    call: Call,
    name: str,
    scope: Annotated[list[str], typer.Option("--scope")],
    days: Annotated[int | None, typer.Option(min=1, max=7_300)] = None,
) -> None:
    """Create a key and print it once: only its hash is stored.

    Example: `liveprofile serve key create shop-frontend --scope profiles --days 90`

    Options:
    name NAME: Who uses the key: the analyst of its writes.
    scope SCOPE: What it may do (docs/api.md#keys), as often as needed; or reader, analyst, admin
        for all scopes of such a person.
    days: Default: serve.api_key_ttl_s.
    """
    ttl_s = call.settings.serve.api_key_ttl_s if days is None else days * DAY_MS // SECOND_MS
    now = now_ms()
    made = new_key(name, scopes_of(scope), getpass.getuser(), now, ttl_s)
    with call.session() as session:
        write_key(session, made.stored, now)
    call.print(_public(made.stored) | {"key": made.text}, made.text)
    if not call.json:
        until = format_utc(made.stored.expires_at_ms)
        about = f"key {made.stored.key_id} of {name} until {until}: {', '.join(scope)}"
        typer.echo(f"{about}; it is not shown again", err=True)


@key.command("list")
def list_keys(call: Call) -> None:
    """List the keys without their secrets, also revoked ones until they expire.

    Example: `liveprofile serve key list --json`
    """
    with call.session() as session:
        keys = read_keys(session)
    columns = "key_id name scopes expires_at_ms revoked_at_ms"
    call.rows([_public(each) for each in keys], columns, empty="no keys")


@key.command()
def revoke(call: Call, key_id: str) -> None:
    """End a key; servers stop accepting it within 5 s. Exit code 1: unknown id.

    Example: `liveprofile serve key revoke 3f9a0c21b7d4`

    Options:
    key_id ID: Id of the key: its middle part.
    """
    with call.session() as session:
        revoked = revoke_key(session, key_id, now_ms())
    call.print(_public(revoked))


def _public(stored: StoredKey) -> dict[str, Any]:
    """A key without its hash."""
    fields = stored._asdict() | {"scopes": sorted(stored.scopes)}
    del fields["secret_hash"]
    return fields
