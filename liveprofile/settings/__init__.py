"""The settings: defaults, then a TOML file, then LIVEPROFILE_* variables, then flags.

`load()` reads them once; everything else receives a `Settings` or one of its sections. Variables
join section and key with two underscores: LIVEPROFILE_CASSANDRA__PASSWORD.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError

from liveprofile.errors import ConfigError
from liveprofile.settings import errors as setting_errors
from liveprofile.settings.errors import as_section, json_form, setting_types
from liveprofile.settings.sections import (
    PURPOSES as PURPOSES,
)
from liveprofile.settings.sections import (
    ConsentSettings,
    JobSettings,
    LimitSettings,
    LoginSettings,
    MergeSettings,
    ModelSettings,
    ScoringSettings,
    StateSettings,
    WindowSettings,
)
from liveprofile.settings.services import (
    MAX_TTL_S as MAX_TTL_S,
)
from liveprofile.settings.services import (
    TOPICS as TOPICS,
)
from liveprofile.settings.services import (
    CassandraSettings,
    DecoderSettings,
    FlinkSettings,
    KafkaSettings,
    MetricsSettings,
    Section,
    ServeSettings,
    TopicSettings,
    setting,
)

CONFIG_VARIABLE = "LIVEPROFILE_CONFIG"
ENV_PREFIX = "LIVEPROFILE_"
# Variables with the prefix that are no settings. tests/unit/liveprofile/test_config.py compares
# them with the code.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "LIVEPROFILE_SERVICE", "LIVEPROFILE_WEBHOOK_SECRET"})
# Kubernetes sets these in each container for a service whose name starts with `liveprofile`.
KUBERNETES_VARIABLE = re.compile(
    r"LIVEPROFILE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)"
)
KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")


class Settings(Section):
    """All settings, validated. Raises ValidationError; `load` turns it into a line a setting."""

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    cassandra: CassandraSettings = CassandraSettings()
    limits: LimitSettings = LimitSettings()
    window: WindowSettings = WindowSettings()
    state: StateSettings = StateSettings()
    model: ModelSettings = ModelSettings()
    job: JobSettings = JobSettings()
    scoring: ScoringSettings = ScoringSettings()
    flink: FlinkSettings = FlinkSettings()
    serve: ServeSettings = ServeSettings()
    metrics: MetricsSettings = MetricsSettings()
    decoder: DecoderSettings = DecoderSettings()
    consent: ConsentSettings = ConsentSettings()
    merges: MergeSettings = MergeSettings()
    logins: LoginSettings = LoginSettings()
    rules: Path = setting(Path("rules.toml"), "file of the risk rules (docs/risk.md)")
    segments: Path = setting(Path("segments.toml"), "file of the segments (docs/segments.md)")
    attributes: Path = setting(
        Path("attributes.toml"),
        "file of the attributes that other systems may state (docs/data-contract.md#9-attributes)",
    )
    # Set to an empty text, it is an error: a missing secret must not turn verification off.
    rules_signing_key: SecretStr | None = setting(
        None,
        "signs and verifies records of rules and segments (docs/deploy.md#signed-rules)",
        min_length=32,
    )


class VariableSettings(NamedTuple):
    """What the environment says: settings, the variable of each, and lines about wrong ones."""

    values: dict[str, Any]
    names: dict[tuple[str, ...], str]
    problems: list[str]


def load(file: Path | str | None = None, **overrides: Any) -> Settings:
    """Reads the settings once.

    `file`: a TOML file, else the one LIVEPROFILE_CONFIG names, else none.
    `overrides`: sections as dicts, which win over variables and file.
    Raises ConfigError with all wrong settings, a line for each: the key, its value, what it may be
    and where it comes from. Secrets are masked.
    """
    file = file or os.environ.get(CONFIG_VARIABLE) or None
    in_file = _read_file(Path(file)) if file else {}
    variables = _read_variables(os.environ)

    def origins(path: tuple[str, ...]) -> list[str]:
        below = (name for key, name in variables.names.items() if key[: len(path)] == path)
        named = [f"variable {name}" for name in dict.fromkeys(below)]
        if named and path in variables.names:
            return named
        return [*named, str(file)] if _has(in_file, path) else named

    problems = list(variables.problems)
    try:
        settings = Settings(**_merged(_merged(in_file, variables.values), overrides))
    except ValidationError as error:
        problems += setting_errors.describe(error, Settings, origins)
    if problems:
        raise ConfigError(setting_errors.as_text(problems))
    return settings


def _read_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no configuration file at {file}")
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"configuration file {file}: {error}") from None


def _read_variables(environment: Mapping[str, str]) -> VariableSettings:
    """The settings in variables; upper and lower case are the same."""
    types = setting_types(Settings)
    by_name = {"__".join(path): path for path in types}
    result = VariableSettings({}, {}, [])
    # A variable of a whole section comes before those of its keys, which win.
    for variable, text in sorted(environment.items(), key=lambda each: len(each[0])):
        if not variable.upper().startswith(ENV_PREFIX) or _is_other(variable, text):
            continue
        path = by_name.get(variable[len(ENV_PREFIX) :].lower())
        if path is None:
            result.problems.append(
                setting_errors.unknown_variable(variable, list(by_name), ENV_PREFIX)
            )
            continue
        try:
            value = _parse(text, types[path])
        except ValueError:
            result.problems.append(setting_errors.not_json(variable, text, types[path]))
            continue
        keys = value if as_section(types[path]) else ()
        result.names.update(dict.fromkeys([(*path, key) for key in keys] or [path], variable))
        for key in reversed(path):
            value = {key: value}
        result.values.update(_merged(result.values, value))
    return result


def _parse(text: str, annotation: Any) -> Any:
    """A variable's value; lists and whole sections are JSON. Raises ValueError."""
    if json_form(annotation) is None:
        return text
    value = json.loads(text)
    if as_section(annotation) and not isinstance(value, dict):
        raise ValueError
    return value


def _is_other(variable: str, value: str) -> bool:
    if variable in OTHER_VARIABLES:
        return True
    if not KUBERNETES_VARIABLE.fullmatch(variable):
        return False
    return not variable.endswith("_PORT") or bool(KUBERNETES_PORT.match(value))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; where both have a key, that of `above`."""
    result = dict(below)
    for key, value in above.items():
        before = result.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[key] = _merged(before, value) if both else value
    return result


def _has(values: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
