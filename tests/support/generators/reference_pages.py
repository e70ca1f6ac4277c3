"""Generates the pages of docs/ that list what the code declares.

    python -m tests.support.generators.reference_pages

tests/unit/cli/test_docs.py compares.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.main import get_command

from cli.main import app
from liveprofile.privacy.places import retention
from liveprofile.settings import Settings, is_section
from liveprofile.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from models.profile.recipes import RECIPES
from monitoring.catalogue import FIGURES
from tests.support.paths import ROOT

UNITS = {"days": DAY_MS, "hours": HOUR_MS, "minutes": MINUTE_MS}
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"


def pages() -> dict[str, str]:
    """{name of the page: its text}."""
    lines = {
        "commands.md": commands(),
        "settings.md": settings(),
        "metrics.md": metrics(),
        "data-inventory.md": inventory(),
    }
    return {name: "\n".join(each).rstrip() + "\n" for name, each in lines.items()}


def commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Generated from the command line. `--help` of each has its options and an example.\n"
    groups = {"": {}} | {
        name: each.commands for name, each in below(get_command(app)) if below(each)
    }
    groups[""] = {name: each for name, each in below(get_command(app)) if not below(each)}
    for group, members in groups.items():
        yield from ([f"## liveprofile {group}\n"] if group else [])
        for name, each in members.items():
            parts = ", ".join(part for part, _ in below(each))
            yield f"- `{name}`{f' ({parts})' if parts else ''}: {first_sentence(each.help)}"
        yield ""


def below(command: Any) -> list[tuple[str, Any]]:
    """The commands of a group, without recipes of trainings."""
    members = getattr(command, "commands", {}).items()
    return [(name, each) for name, each in members if name not in RECIPES]


def first_sentence(text: str) -> str:
    """The first sentence of a help text, without full stop and without the page it refers to."""
    sentence = " ".join(text.split("\n\n")[0].split()).split(". ")[0]
    return re.sub(r" \(docs/[\w-]+\.md\)$", "", sentence.rstrip("."))


def settings() -> Iterator[str]:
    yield "# Settings\n"
    yield "For operators: which settings are there, and what are their defaults? Generated from the"
    yield "code. A setting comes from an environment variable `LIVEPROFILE_<SECTION>__<KEY>`, else"
    yield "from the TOML file (`--config`, `LIVEPROFILE_CONFIG`, or that of `make up`:"
    yield "`.stack/run/liveprofile.toml`), else it has its default, which is empty where none is"
    yield "named.\n"
    fields = Settings.model_fields
    yield from (setting(name, field) for name, field in fields.items() if not section(field))
    for name, field in fields.items():
        if keys := section(field):
            yield f"\n## {name}\n"
            yield from (setting(key, each) for key, each in keys.items())


def section(field: FieldInfo) -> dict[str, FieldInfo] | None:
    """The settings of a section; None for a single setting."""
    return field.annotation.model_fields if is_section(field.annotation) else None


def setting(name: str, field: FieldInfo) -> str:
    """A line of the page. Raises ValueError for a setting without a description."""
    if not field.description:
        raise ValueError(f"setting {name} has no description")
    shown = f"`{name}={default(field.default)}`" if default(field.default) else f"`{name}`"
    unit_ms = 1 if name.endswith("_ms") else SECOND_MS if isinstance(field.default, int) else 0
    if name.endswith(("_ms", "_s")) and field.default * unit_ms >= 2 * MINUTE_MS:
        shown += f" ({duration(field.default * unit_ms)})"
    if get_origin(field.annotation) is Literal:
        others = [str(each) for each in get_args(field.annotation) if each != field.default]
        shown += f" (or {', '.join(others)})"
    text = re.sub(
        r"docs/([\w-]+\.md)(#[\w-]+)?", r"[\1](\1\2)", " ".join(field.description.split())
    )
    return f"- {shown}: {text}"


def default(value: Any) -> str:
    """Empty for none."""
    if value is None or value == "" or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def duration(ms: float) -> str:
    unit = next((name for name, each in UNITS.items() if ms >= 2 * each), "minutes")
    return f"{ms / UNITS[unit]:g} {unit}"


def metrics() -> Iterator[str]:
    yield "# Metrics and alerts\n"
    yield "What `liveprofile serve metrics` exports, generated from the code. Names have the prefix"
    yield "`liveprofile_`, a counter's name ends with `_total`. Labels in brackets.\n"
    for kind in ("gauge", "counter", "histogram"):
        yield f"## {kind.capitalize()}s\n"
        for name, figure in FIGURES.items():
            if figure.kind == kind:
                labels = f" [{', '.join(figure.labels)}]" if figure.labels else ""
                yield f"- `{name}`{labels}: {figure.help.rstrip('.')}"
        yield ""
    yield "The API exports `api_requests_total` [method, route, status], `api_request_seconds`"
    yield "[route] and `api_requests_in_flight`.\n"
    yield "## Alerts\n"
    yield "Each says what to do. `page`: act now. `ticket`: act within a day.\n"
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    for severity in ("page", "ticket"):
        names = [f"`{each['alert']}`" for each in rules if each["labels"]["severity"] == severity]
        yield f"- {severity}: {', '.join(names)}"
    yield ""


def inventory() -> Iterator[str]:
    yield "# Data inventory\n"
    yield "What is kept for how long by default, generated from the code. `liveprofile privacy"
    yield "data-inventory` prints it for your settings, and [privacy.md](privacy.md) explains it.\n"
    kept = sorted(retention(Settings.model_construct()), key=lambda each: not each.has_users)
    for title, kind in (("Tables", "table"), ("Topics", "topic"), ("State of the job", "state")):
        yield f"## {title}\n"
        for users, rows in groupby(
            (x for x in kept if x.kind == kind), lambda each: each.has_users
        ):
            if not users:
                yield "\nWithout users:\n"
            by_limit: dict[str, list[str]] = {}
            for row in rows:
                what = "" if kind == "state" else f" ({row.what})"
                by_limit.setdefault(limit(row), []).append(f"`{row.place}`{what}")
            for text, places in by_limit.items():
                yield f"- {text}: {', '.join(places)}"
        yield ""


def limit(row: Any) -> str:
    if row.limit_ms is None:
        return row.setting
    long = duration(row.limit_ms)
    setting = " + ".join(f"`{part}`" if "." in part else part for part in row.setting.split(" + "))
    return setting if setting == long else f"{setting}, {long}"


def main() -> None:
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
