"""Copies of the shipped user model under other versions."""

import json
import shutil
from pathlib import Path
from typing import Any

from liveprofile.resources import product_path
from liveprofile.settings import ModelSettings
from models.profile.model_card import CARD

SHIPPED = product_path(ModelSettings().checkpoint)


def copy_model(folder: Path, version: str, **card_fields: Any) -> Path:
    """Copies the shipped checkpoint to `folder / version` and changes its card."""
    target = folder / version
    shutil.copytree(SHIPPED, target)
    card = json.loads((target / CARD).read_text("utf-8")) | {"version": version} | card_fields
    (target / CARD).write_text(json.dumps(card), encoding="utf-8")
    return target
