"""Spools return every row once, and two of them in the same parts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from liveprofile.audit.spool import Spool

ROW = np.dtype([("key", np.uint64), ("value", np.int64)], align=True)
KEYS = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63, 2**64 - 1]), max_size=50)


def rows_of(keys: list[int]) -> np.ndarray:
    rows = np.zeros(len(keys), ROW)
    rows["key"], rows["value"] = np.array(keys, np.uint64), np.arange(len(keys))
    return rows


@given(KEYS, st.integers(1, 8), st.integers(1, 5))
def test_parts_are_all_rows_by_ranges_of_keys(keys, run_rows, count):
    with Spool(ROW, run_rows) as spool:
        for row in rows_of(keys):
            spool.add(np.array([row]))
        assert len(spool) == len(keys)
        parts = list(spool.parts(count))
    assert len(parts) == count
    assert sorted(np.concatenate(parts).tolist()) == sorted(rows_of(keys).tolist())
    for number, part in enumerate(parts):
        assert all(int(key) * count >> 64 == number for key in part["key"])


@given(KEYS, KEYS, st.integers(1, 8))
def test_contains_finds_exactly_the_added_keys(added, others, run_rows):
    with Spool(ROW, run_rows) as spool:
        for row in rows_of(added):
            spool.add(np.array([row]))
        asked = np.array([*added, *others], np.uint64)
        assert spool.contains(asked).tolist() == [key in added for key in asked.tolist()]


def test_full_disk_names_the_remedy():
    program = f"""
import resource
import numpy as np
from liveprofile.audit.spool import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
with Spool(np.dtype({ROW.descr}), 1) as spool:
    spool.add(np.zeros(1_000, {ROW.descr}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "InputError: temporary folder" in done.stderr
    assert "File too large; set TMPDIR" in done.stderr


def test_one_part_of_the_file_is_in_memory_at_a_time():
    program = """
from pathlib import Path
import numpy as np
from liveprofile.audit.spool import Spool

def peak_kb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

dtype = np.dtype([("key", np.uint64), ("value", "V248")], align=True)
rows = np.zeros(10_000, dtype)
with Spool(dtype, 10_000) as spool:
    for start in range(40):
        rows["key"] = (np.arange(10_000, dtype=np.uint64) << np.uint64(50)) + np.uint64(start)
        spool.add(rows.copy())
    before = peak_kb()
    assert sum(map(len, spool.parts(40))) == 400_000
    print((peak_kb() - before) / 1_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert float(done.stdout) < 30, done.stderr  # of 102 MB
