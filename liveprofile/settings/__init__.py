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
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Field, SecretStr, ValidationError

from liveprofile.errors import ConfigError
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
    ChoreSettings,
    DecoderSettings,
    FlinkSettings,
    KafkaSettings,
    MetricsSettings,
    Section,
    ServeSettings,
    TopicSettings,
)

Keys = tuple[str, ...]

CONFIG_VARIABLE = "LIVEPROFILE_CONFIG"
ENV_PREFIX = "LIVEPROFILE_"
# Variables with the prefix that are no settings. tests/unit/liveprofile/test_config.py compares
# them with the code.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "LIVEPROFILE_SERVICE", "LIVEPROFILE_WEBHOOK_SECRET"})
# Kubernetes sets these in each container for a service whose name starts with `liveprofile`.
KUBERNETES_VARIABLE = re.compile(
    r"LIVEPROFILE_(?!.*__)(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)"
)


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
    chores: ChoreSettings = ChoreSettings()
    decoder: DecoderSettings = DecoderSettings()
    consent: ConsentSettings = ConsentSettings()
    merges: MergeSettings = MergeSettings()
    logins: LoginSettings = LoginSettings()
    rules: Path = Path("rules.toml")
    """file of the risk rules (docs/risk.md)"""
    segments: Path = Path("segments.toml")
    """file of the segments (docs/segments.md)"""
    attributes: Path = Path("attributes.toml")
    """file of the attributes of users (docs/data-contract.md#9-attributes)"""
    event_types: Path = Path("events.toml")
    """file of event types of your own (docs/data-contract.md#event-types-of-your-own)"""
    # Set to an empty text, it is an error: a missing secret must not turn verification off.
    rules_signing_key: Annotated[SecretStr | None, Field(min_length=32)] = None
    """signs and verifies records of rules and segments (docs/deploy.md#signed-rules)"""


def load(
    file: Path | str | None = None,
    environment: Mapping[str, str] = os.environ,
    **overrides: Any,
) -> Settings:
    """Reads the settings once.

    `file`: a TOML file, else the one LIVEPROFILE_CONFIG names, else none.
    `environment`: variables, which win over the file. `overrides`: sections as dicts, which win
    over both.
    Raises ConfigError with all wrong settings, a line for each: the key, its value, what it may be
    and where it comes from. Secrets are masked.
    """
    file = file or environment.get(CONFIG_VARIABLE) or None
    in_file = _read_file(Path(file)) if file else {}
    names, values, problems = _read_variables(environment)
    try:
        settings = Settings(**_merged(_merged(in_file, values), overrides))
    except ValidationError as error:
        for fault in error.errors():
            path = tuple(map(str, fault["loc"]))[:2]
            origins = [
                f"variable {name}" for key, name in names.items() if key[: len(path)] == path
            ]
            if path not in names and _has(in_file, path):
                origins.append(str(file))
            problems.append(_line(fault) + f" (from {' and '.join(origins)})" * bool(origins))
    if len(problems) > 1:
        problems = [f"{len(problems)} settings are wrong:", *problems]
    if problems:
        raise ConfigError("\n  ".join(problems))
    return settings


def setting_types(model: type[BaseModel] = Settings, path: Keys = ()) -> dict[Keys, Any]:
    """The type of each setting of a settings class by path."""
    types: dict[Keys, Any] = {}
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            types |= setting_types(field.annotation, (*path, name))
        else:
            types[*path, name] = field.annotation
    return types


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _read_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no configuration file at {file}")
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"configuration file {file}: {error}") from None


def _read_variables(
    environment: Mapping[str, str],
) -> tuple[dict[Keys, str], dict[str, Any], list[str]]:
    """The variable of each setting, the settings, and lines about wrong variables.

    Upper and lower case are the same. Lists are JSON.
    """
    types = setting_types()
    by_name = {(ENV_PREFIX + "__".join(path)).upper(): path for path in types}
    names: dict[Keys, str] = {}
    values: dict[str, Any] = {}
    problems = []
    for variable, text in environment.items():
        # LIVEPROFILE_CASSANDRA_PORT=9043 lacks an underscore; Kubernetes' is a URL.
        is_service = KUBERNETES_VARIABLE.fullmatch(variable) and (
            not variable.endswith("_PORT") or "://" in text or "_SERVICE_" in variable
        )
        is_other = variable in OTHER_VARIABLES or is_service
        if not variable.upper().startswith(ENV_PREFIX) or is_other:
            continue
        if (path := by_name.get(variable.upper())) is None:
            problems.append(f"variable {variable} names no setting; docs/settings.md lists all")
            continue
        names[path] = variable
        value: Any = text
        if get_origin(types[path]) is tuple:
            try:
                value = json.loads(text)
            except ValueError:
                problems.append(f'variable {variable} = {text!r}: must be JSON, such as ["a", "b"]')
                continue
        for key in reversed(path):
            value = {key: value}
        values = _merged(values, value)
    return names, values, problems


def _line(fault: Any) -> str:
    """A wrong setting, with its value unless that may be a secret."""
    path, value = tuple(map(str, fault["loc"])), fault["input"]
    if fault["type"] == "extra_forbidden":
        return f"setting {'.'.join(path)}: not a setting; docs/settings.md lists all"
    kinds = [kind for key, kind in setting_types().items() if key[: len(path[:2])] == path[:2]]
    is_secret = any(SecretStr in (kind, *get_args(kind)) for kind in kinds)
    # A fault of a whole section has the section as input, secrets included.
    is_whole = isinstance(value, (dict, BaseModel))
    shown = "" if is_whole else f" = {'********' if is_secret else repr(value)}"
    return f"setting {'.'.join(path)}{shown}: {fault['msg'].removeprefix('Value error, ')}"


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
