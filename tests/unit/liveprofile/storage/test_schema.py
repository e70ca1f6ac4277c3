"""The file that repeats the tables, and limits of TTLs."""

import pytest
from pydantic import BaseModel

from liveprofile.errors import ConfigError
from liveprofile.settings import MAX_TTL_S, load
from tests.support.generators.schema_file import FILE, text


def test_file_says_what_the_tables_are() -> None:
    """Otherwise run `python -m tests.support.generators.schema_file`."""
    assert FILE.read_text("utf-8") == text()


@pytest.mark.parametrize("value", [0, MAX_TTL_S + 1])
def test_ttl_of_a_table_is_at_least_a_second_and_at_most_20_years(value: int) -> None:
    ttls = [
        (name, key)
        for name, section in load()
        if isinstance(section, BaseModel)
        for key in type(section).model_fields
        if key.endswith("_ttl_s")
    ]
    assert len(ttls) >= 5
    for section, key in ttls:
        with pytest.raises(ConfigError, match=rf"{section}.{key} = {value}: Input should be"):
            load(**{section: {key: value}})
