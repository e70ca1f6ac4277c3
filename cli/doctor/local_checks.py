"""Checks of the machine where `doctor` runs. Each yields what is wrong, and the way out."""

from __future__ import annotations

from collections.abc import Iterator

from cli.doctor.check import Check, Problem
from cli.doctor.facts import Facts
from liveprofile.settings import Settings

TEMP_BYTES = 2 << 30


def python_version(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.local.python != (3, 11):
        found = ".".join(map(str, facts.local.python))
        yield Problem(
            f"this is Python {found}, the workers need 3.11 at the same path",
            "create the environment with Python 3.11",
        )


def java_version(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.local.java_error:
        yield Problem(facts.local.java_error, "`submit` needs it: install JDK 17")


def model(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.local.model_error:
        yield Problem(facts.local.model_error, "correct model.checkpoint")


def rules(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.local.rules_error:
        yield Problem(
            facts.local.rules_error, "`liveprofile risk rules check FILE` shows all errors"
        )


def temporary_space(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if facts.local.temp_free_bytes < TEMP_BYTES:
        yield Problem(
            f"the folder of temporary files has {facts.local.temp_free_bytes / 2**30:.1f} GiB",
            "set TMPDIR to a folder on a disk: audits and training keep rows there",
        )


def encryption(facts: Facts, settings: Settings) -> Iterator[Problem]:
    if settings.kafka.security_protocol == "SASL_PLAINTEXT":
        yield Problem(
            "kafka.security_protocol = SASL_PLAINTEXT sends credentials and events unencrypted",
            "use SASL_SSL",
        )
    if settings.cassandra.username and not settings.cassandra.ca_file:
        yield Problem(
            "the password for Cassandra is sent unencrypted", "enable TLS and set cassandra.ca_file"
        )


CHECKS = (
    Check("python version", "local", python_version),
    Check("java version", "local", java_version),
    Check("model", "local", model),
    Check("rules", "local", rules),
    Check("temporary space", "local", temporary_space),
    Check("encryption", "local", encryption),
)
