"""Settings of `liveprofile serve metrics`."""

from __future__ import annotations

from pydantic import Field, model_validator

from liveprofile.loopback import is_loopback
from liveprofile.serve_settings import ListenSettings, ServeSettings


class MetricsSettings(ListenSettings):
    """The exporter of metrics. Anything but this machine needs a token too."""

    port: int = Field(8071, ge=0, le=65535, description="0: any free port")
    token_file: str = Field(
        "", description="file with the token that Prometheus sends; empty: no token"
    )
    interval_ms: int = Field(
        5_000, ge=1_000, le=600_000, description="between two readings of a service"
    )
    scan_interval_ms: int = Field(
        300_000, ge=1_000, description="between two scans of drift and cases in Cassandra"
    )

    @model_validator(mode="after")
    def _authenticated(self) -> MetricsSettings:
        if not is_loopback(self.host) and not self.token_file:
            raise ValueError(f"host {self.host} is not loopback: it needs token_file")
        return self

    def server(self) -> ServeSettings:
        """Address and certificate with the limits of the read API's server."""
        shared = {name: getattr(self, name) for name in ListenSettings.model_fields}
        return ServeSettings(port=self.port, **shared)
