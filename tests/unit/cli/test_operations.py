"""Commands of operations and marketing check their arguments before they connect."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.main import app
from liveprofile.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shop trends show --last 7w", "--last '7w': not a number above 0"),
        ("shop trends show --type buy", "--type 'buy': not one of view, cart"),
        ("shop trends forecast --type buy", "--type 'buy'"),
        ("shop funnel --steps view,buy", "--steps 'buy': not one of"),
        ("shop funnel --steps view", "--steps 'view': give 2 or more"),
        ("shop funnel --within 30d --last 7d", "--within '30d': must be less than --last '7d'"),
        ("shop retention --type buy", "--type 'buy'"),
        ("campaign plan A", "name 'A'"),
        ("campaign plan a --cap 2", "--cap '2': not a number of contacts"),
        ("campaign plan a --cap 0/30d", "--cap.contacts"),
        ("campaign plan a --when churn", "--when, character"),
        ("campaign plan a --exclude none.txt", "--exclude none.txt"),
        ("campaign plan a --start tomorrow", "tomorrow"),
    ],
)
def test_wrong_argument_is_an_input_error(arguments: str, message: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert isinstance(result.exception, InputError), result.output
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
