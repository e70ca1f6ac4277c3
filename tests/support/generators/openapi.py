"""Writes schemas/openapi.json: python -m tests.support.generators.openapi."""

import json
import sys
from pathlib import Path
from typing import Any

from liveprofile.resources import ROOT
from liveprofile.settings import ServeSettings, Settings
from serve.app import create_app
from serve.store.store import Store

FILE = ROOT / "schemas" / "openapi.json"


def document() -> dict[str, Any]:
    """The OpenAPI document of the API."""
    return create_app(ServeSettings(), Store(Settings.model_construct())).openapi()


def text() -> str:
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def main(file: Path = FILE) -> None:
    file.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{file} is up to date\n")


if __name__ == "__main__":
    main()
