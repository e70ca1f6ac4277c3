"""A schema registry on loopback, and its client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from liveprofile.decoding.registry import SchemaRegistry
from liveprofile.settings import DecoderSettings
from tests.support.memory.schema_registry import RegistryServer, registry_server


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with registry_server() as state:
        yield state


@pytest.fixture
def registry(server: RegistryServer) -> Iterator[SchemaRegistry]:
    with closing(SchemaRegistry(DecoderSettings(registry_url=server.url))) as client:
        yield client
