"""The collection of tests by tests/conftest.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_collection_modifyitems, worker_group


def item(name: str, folder: str = "unit") -> SimpleNamespace:
    config = SimpleNamespace(rootpath=Path("/r"))
    return SimpleNamespace(nodeid=name, path=Path(f"/r/tests/{folder}/t.py"), config=config)


def test_tests_with_one_id_end_the_collection() -> None:
    with pytest.raises(pytest.UsageError, match=r"same id: a \(2\)$"):
        pytest_collection_modifyitems([item("a"), item("b"), item("a")])


def test_browser_tests_are_last() -> None:
    items = [item("a", "browser"), item("b"), item("c")]
    pytest_collection_modifyitems(items)
    assert [each.nodeid for each in items] == ["b", "c", "a"]


def test_worker_group_is_that_of_the_deepest_folder() -> None:
    assert worker_group("tests/unit/a/test_b.py") == "tests/unit/a/test_b.py"
    assert worker_group("tests/services/test_a.py") == "services"
    assert worker_group("tests/services/marketing/test_a.py") == "services"
    assert worker_group("tests/services/storage/deep/test_a.py") == "faults"
