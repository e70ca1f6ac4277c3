"""Tables of commands: what they show, and that a pipe gets each row in one line."""

from __future__ import annotations

import pytest

from cli.alerts import flag_table as flag_state_table
from cli.common import print_tables, table
from cli.profile import flag_table
from liveprofile.alerts.cases.flags import FlagWithState
from liveprofile.alerts.cases.states import AlertState, StoredAlertState
from tests.unit.liveprofile.alerts.test_cases import stored

LONG_ID = "f" * 300


def test_piped_table_has_a_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(LONG_ID, 12, "a message [bold] of many words :smile: " * 20), ("2", 7.5, "short")]
    columns = {"flag": "{[0]}", ">amount": "{[1]:.2f}", "message": "{[2]}"}
    print_tables(table("Flags", rows, columns))
    title, _, header, _, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert (title.strip(), header.split()) == ("Flags", ["flag", "amount", "message"])
    assert first.split()[:2] == [LONG_ID, "12.00"]
    assert first.count("[bold] of many words :smile:") == 20
    assert second.split() == ["2", "7.50", "short"]


def test_flags_show_the_id_that_alerts_takes(capsys: pytest.CaptureFixture[str]) -> None:
    flag = stored(flag_id="6f1c2a09b7d34e58")
    state = StoredAlertState(AlertState.OPEN, "", "", 0)
    for made in (flag_table([flag]), flag_state_table([FlagWithState(flag, state)])):
        print_tables(made)
        assert capsys.readouterr().out.rstrip().splitlines()[-1].split()[0] == flag.flag_id
