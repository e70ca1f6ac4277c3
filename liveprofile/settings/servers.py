"""Settings of the servers: the read API, the console and the exporter of metrics."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from liveprofile.loopback import is_loopback
from liveprofile.settings.sections import MAX_TTL_S, Section


class ServeSettings(Section):
    """The read API and the console. Anything but this machine needs TLS and keys."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address that servers listen on; any other than loopback needs keys and TLS",
    )
    allow_plaintext: bool = Field(
        False, description="listen beyond this machine without TLS, which a proxy must add"
    )
    certificate_file: str = Field("", description="PEM file with the server's certificate chain")
    key_file: str = Field("", description="PEM file with the server's private key")
    key_password: SecretStr = Field(SecretStr(""), description="of an encrypted `key_file`")
    port: int = Field(
        8070, ge=0, le=65535, description="of the read API (docs/api.md); 0: any free port"
    )
    authentication: Literal["keys", "none"] = Field(
        "keys", description="none: everybody on this machine may read, nobody may write"
    )
    deadline_ms: int = Field(
        1_200, ge=100, le=60_000, description="a request that takes longer is answered with 503"
    )
    key_cache_ms: int = Field(
        5_000, ge=0, le=60_000, description="a revoked key is accepted for at most this long"
    )
    requests_per_s: float = Field(500.0, gt=0, description="of one key, in the long run")
    burst: int = Field(1_000, ge=1, description="requests of one key at once")
    wrong_keys_per_s: float = Field(
        5.0,
        gt=0,
        description="attempts with a wrong key from one address; more are answered with 429",
    )
    max_in_flight: int = Field(
        512, ge=1, description="requests at once; more are answered with 503"
    )
    scan_rows: int = Field(
        500_000,
        ge=1,
        description="rows that one funnel, retention, preview or campaign may read through the API",
    )
    scan_timeout_ms: int = Field(
        30_000, ge=100, le=600_000, description="time that one of them may take"
    )
    explanations_at_once: int = Field(
        1, ge=0, le=64, description="windows explained at a time, a process of 2 GB each; 0: none"
    )
    explanation_timeout_ms: int = Field(
        300_000, ge=1_000, le=3_600_000, description="time that one explanation may take"
    )
    console_port: int = Field(
        8072, ge=0, le=65535, description="of the console (docs/console.md); 0: any free port"
    )
    session_s: int = Field(
        12 * 3_600,
        ge=60,
        le=30 * 86_400,
        description="a browser is signed in to the console for so long",
    )
    second_approver: bool = Field(
        True,
        description="rules edited in the console need the approval of another person. The local"
        " stack turns it off",
    )
    api_key_ttl_s: int = Field(
        365 * 86_400,
        ge=1,
        le=MAX_TTL_S,
        description="a key expires after this, unless `serve key create --days` says otherwise",
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file need each other")
        if self.key_password.get_secret_value() and not self.key_file:
            raise ValueError("key_password needs key_file")
        if not is_loopback(self.host) and not self.certificate_file and not self.allow_plaintext:
            raise ValueError(
                f"host {self.host} is not loopback: it needs certificate_file and key_file, or"
                " allow_plaintext = true behind a proxy with TLS"
            )
        return self

    @property
    def uses_tls(self) -> bool:
        return bool(self.certificate_file)

    # Before the check of TLS: without keys, TLS does not help.
    @field_validator("authentication")
    @classmethod
    def _authenticated(cls, value: str, info: ValidationInfo) -> str:
        host = info.data.get("host")  # missing if it is invalid itself
        if host is not None and value == "none" and not is_loopback(host):
            raise ValueError(f'host {host} is not loopback: it needs authentication = "keys"')
        return value

    @property
    def deadline_s(self) -> float:
        return self.deadline_ms / 1_000

    @property
    def explanation_timeout_s(self) -> float:
        return self.explanation_timeout_ms / 1_000

    @property
    def scan_timeout_s(self) -> float:
        return self.scan_timeout_ms / 1_000


class MetricsSettings(Section):
    """The exporter of metrics; it listens with address and certificate of `serve`."""

    port: int = Field(
        8071,
        ge=0,
        le=65535,
        description="of the exporter, which listens with the address and certificate of `serve`"
        " (docs/operate.md#monitor); 0: any free port",
    )
    token_file: str = Field(
        "",
        description="file with the token that Prometheus sends, 16 characters or more; empty:"
        " none, on loopback only",
    )
