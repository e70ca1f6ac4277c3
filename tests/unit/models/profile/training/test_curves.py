"""The table and the figure of the training curves."""

import csv
import struct

from models.profile.training import curves

EPOCHS = [
    {"epoch": epoch, "seconds": 1.5, "loss": 9 - epoch, "type": 0.1, "validation_loss": 9.1234567}
    for epoch in range(1, 4)
]


def test_table_has_a_row_per_epoch(tmp_path):
    curves.write(tmp_path, EPOCHS, 2)
    with (tmp_path / "curves.csv").open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert rows[2] == {
        "epoch": "3",
        "seconds": "1.5",
        "loss": "6",
        "type": "0.1",
        "validation_loss": "9.12346",
    }


def test_figure_has_a_panel_per_loss_and_metric(tmp_path):
    figure = curves.figure(EPOCHS, 2)
    panels = {panel.get_title(): panel for panel in figure.axes if panel.get_title()}
    assert list(panels) == ["loss", "type", "seconds"]
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert list(lines) == ["training", "validation", "best epoch (2)"]
    assert lines["training"].get_ydata().tolist() == [8, 7, 6]
    assert [*lines["best epoch (2)"].get_xdata()] == [2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(lines)
    assert len(panels["type"].get_lines()) == 2  # it has no validation curve
    curves.write(tmp_path, EPOCHS, 2)
    head = (tmp_path / "curves.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (680, 600)
