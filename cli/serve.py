"""`liveprofile serve`: the read API, the console, metrics, and the keys of the API."""

from __future__ import annotations

import getpass
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.common import ConfigOption, JsonOption, config_file, format_utc, print_json, read_settings
from cli.options import Commands
from liveprofile.resources import module_environment
from liveprofile.settings import Settings, load
from liveprofile.units import DAY_MS, SECOND_MS

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from serve.explainer import ChildExplainer
    from serve.keys import StoredKey


def api(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    quiet: bool = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve profiles and alerts over HTTP until Ctrl-C (docs/api.md).

    Starts without Cassandra and answers 503 until it is there. With --json, the first line is
    {"url": ...}. The log goes to stderr, a line per request.

    Example: `liveprofile serve api --port 8070`

    Options:
    host ADDRESS: Setting serve.host.
    port: Setting serve.port; 0: any free port.
    quiet: Log warnings only.
    """
    from serve.server import serve as run

    changes: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = load(config_file(config), serve=given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("serve").setLevel(logging.WARNING if quiet else logging.INFO)

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    run(settings, started, open_explainer(settings, config_file(config)))


def console(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the console for analysts until Ctrl-C (docs/console.md).

    Keys, roles, TLS and limits are those of `liveprofile serve api`. Starts without Cassandra. With
    --json, the first line is {"url": ...}.

    Example: `liveprofile serve console --port 8072`

    Options:
    host ADDRESS: Setting serve.host.
    port: Setting serve.console_port; 0: any free port.
    """
    from console.app import run_console

    changes: dict[str, Any] = {"host": host, "console_port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings = load(config_file(config), serve=given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    run_console(settings, started, open_explainer(settings, config_file(config)))


def metrics(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    audit_state: Path | None = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the figures of `liveprofile job status` and more as Prometheus metrics until Ctrl-C.

    docs/metrics.md lists them. Starts without Kafka, Cassandra and Flink, and reads each when it
    is there. With --json, the first line is {"url": ...}.

    Example: `liveprofile serve metrics --port 8071`

    Options:
    host ADDRESS: Setting serve.host.
    port: Setting metrics.port; 0: any free port.
    audit_state FILE: The file of `liveprofile events audit --state`: adds how far the audit has
        come.
    """
    from monitoring.server import serve_metrics

    changes: dict[str, Any] = {"serve": {"host": host}, "metrics": {"port": port}}
    given = {section: each for section, each in changes.items() if None not in each.values()}
    settings = load(config_file(config), **given)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", force=True
    )

    def started(url: str) -> None:
        print_json({"url": url}) if json else typer.echo(f"listening on {url}")

    serve_metrics(settings, audit_state, started)


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
    """End a key; servers stop accepting it within 5 s. Exit code 1: unknown id.

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


# What `liveprofile[serve]` lacks.
NEEDED = ("torch", "pyflink")


def open_explainer(settings: Settings, config: Path | None) -> ChildExplainer | None:
    """None: the settings allow none, or the packages of the model or the job are not installed.

    config: the settings' file.
    """
    from serve.explainer import ChildExplainer

    serve = settings.serve
    if not serve.explanations_at_once or any(find_spec(name) is None for name in NEEDED):
        return None
    return ChildExplainer(
        [sys.executable, "-m", "cli.explain.child"],
        {**module_environment(), "OMP_NUM_THREADS": "1"},
        {"config": None if config is None else str(config.resolve())},
        serve.explanations_at_once,
    )
