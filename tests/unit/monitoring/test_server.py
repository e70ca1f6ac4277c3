"""`/metrics` over HTTP: token, address, certificate."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from liveprofile.errors import ConfigError
from liveprofile.settings import load
from monitoring.server import metrics_app, read_token, serve_metrics

TOKEN = "0123456789abcdef"


def client(token: str | None) -> TestClient:
    return TestClient(metrics_app(CollectorRegistry(), token))


def test_metrics_without_a_token() -> None:
    answer = client(None).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert client(None).get("/other").status_code == 404


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer ", 401),
        ("Bearer wrong", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN}", 200),
    ],
)
def test_token_is_needed_if_there_is_one(header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert client(TOKEN).get("/metrics", headers=headers).status_code == status


def test_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="ascii")
    assert read_token(str(file)) == TOKEN
    assert read_token("") is None


@pytest.mark.parametrize("content", [None, "", "short", "zu kürz für ein Token"])
def test_unusable_token_is_an_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"settings metrics.token_file = .*token"):
        read_token(str(file))


def test_address_beyond_this_machine_needs_a_token() -> None:
    settings = load(serve={"host": "0.0.0.0", "allow_plaintext": True})
    with pytest.raises(ConfigError, match=r"serve\.host = .* needs metrics\.token_file"):
        serve_metrics(settings, print)
