"""Schemas of a registry with Confluent's REST API, which Karapace and Apicurio have too."""

import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx2

from intake.decoding.avro_body import UnusableSchemaError, avro_reader
from intake.decoding.decode import BodyReader, DecodeError
from liveprofile.errors import ConfigError, ServiceUnavailableError
from liveprofile.settings import DecoderSettings

# Error codes of the REST API: no such schema.
NOT_FOUND = (40401, 40402, 40403)
# Each is a few kilobytes; a shop has tens of schemas.
MAX_SCHEMAS = 1_000
# How long an unknown id stays unknown. A producer registers a schema before it uses it, so that a
# flood of records with an unknown id costs one request in this time.
UNKNOWN_S = 30.0
TIMEOUT_S = 5.0  # of one request


class RegistryError(ServiceUnavailableError):
    """The registry does not answer, or refuses. The same request may succeed later."""


class _Unknown(NamedTuple):
    detail: str
    until_s: float


class SchemaRegistry:
    """Readers of bodies by schema id. It keeps them: the schema of an id never changes.

    `clock` returns seconds.
    """

    def __init__(self, settings: DecoderSettings, clock: Callable[[], float] = time.monotonic):
        """Raises ConfigError if the file of certificates cannot be read."""
        self._clock = clock
        self._readers: dict[int, BodyReader | _Unknown] = {}
        self._url = settings.registry_url.rstrip("/")
        user, password = settings.username, settings.password
        self._client = httpx2.Client(
            timeout=TIMEOUT_S,
            auth=(user, password.get_secret_value()) if user else None,
            verify=_trusted(settings.ca_file),
            # No proxy and no credentials but those of the settings.
            trust_env=False,
            headers={"accept": "application/vnd.schemaregistry.v1+json, application/json"},
        )

    def close(self) -> None:
        self._client.close()

    def reader(self, schema_id: int) -> BodyReader:
        """What reads bodies of this schema.

        Raises DecodeError if there is no such schema or it is of no use, RegistryError.
        """
        known = self._readers.get(schema_id)
        if known is None or (isinstance(known, _Unknown) and known.until_s <= self._clock()):
            known = self._fetch(schema_id)
            self._readers.pop(schema_id, None)
            while len(self._readers) >= MAX_SCHEMAS:
                del self._readers[next(iter(self._readers))]
            self._readers[schema_id] = known
        if isinstance(known, _Unknown):
            raise DecodeError("UNKNOWN_SCHEMA", f"schema {schema_id}: {known.detail}")
        return known

    def _fetch(self, schema_id: int) -> BodyReader | _Unknown:
        until_s = self._clock() + UNKNOWN_S
        if not self._url:
            return _Unknown("decoder.registry_url is not set", until_s)
        if schema_id < 0:
            return _Unknown("ids are not negative", until_s)
        if (answer := self._get(f"/schemas/ids/{schema_id}")) is None:
            return _Unknown("the registry does not have it", until_s)
        try:
            kind = answer.get("schemaType", "AVRO")
            if kind == "JSON":
                return bytes  # the body is the event
            if kind != "AVRO":
                raise UnusableSchemaError(f"{kind} is neither AVRO nor JSON")
            if answer.get("references"):
                raise UnusableSchemaError("references to other schemas are not supported")
            return avro_reader(answer["schema"])
        except (UnusableSchemaError, KeyError) as error:
            return _Unknown(str(error), until_s)

    def _get(self, path: str) -> dict[str, Any] | None:
        """The JSON object at `path`, None if the registry does not have it."""
        try:
            response = self._client.get(self._url + path)
            answer = response.json()
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise self._unavailable(path, f"{type(error).__name__}: {error}") from None
        if response.is_success and isinstance(answer, dict):
            return answer
        code = answer.get("error_code") if isinstance(answer, dict) else None
        # A 404 of another server, such as a proxy, says nothing about the schema.
        if response.status_code == httpx2.codes.NOT_FOUND and code in NOT_FOUND:
            return None
        raise self._unavailable(path, f"status {response.status_code}")

    def _unavailable(self, path: str, why: str) -> RegistryError:
        return RegistryError(
            f"the schema registry does not answer {self._url}{path} ({why}): is it up, and are"
            " decoder.registry_url and its credentials right?"
        )


def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(f"decoder.ca_file {ca_file}: {error}") from None
