"""Tables on disk name a full disk, and take bounded memory."""

import subprocess
import sys

import pytest


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.slow
def test_full_disk_names_the_remedy():
    done = run("""
import resource, numpy as np
from liveprofile.disk_tables import DiskTables
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with DiskTables() as tables:
    rows = np.zeros(20_000, [("a", np.uint64), ("b", np.uint64)])
    for start in range(600):
        rows["a"], rows["b"] = np.random.default_rng(start).integers(0, 2**63, (2, 20_000))
        tables.add("numbers", rows)
""")
    assert "InputError: temporary folder" in done.stderr and "set TMPDIR" in done.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    done = run("""
from pathlib import Path
import numpy as np
from liveprofile.disk_tables import DiskTables

def peak_mb():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1_000

rows = np.zeros(20_000, [("a", np.uint64), ("b", np.uint64)])
with DiskTables() as tables:
    before = peak_mb()
    for start in range(600):
        rows["a"], rows["b"] = np.random.default_rng(start).integers(0, 2**63, (2, 20_000))
        tables.add("numbers", rows)
    assert sum(batch.num_rows for batch in tables.read("numbers", "ORDER BY a")) == 12_000_000
    print(peak_mb() - before)
""")
    assert float(done.stdout) < 220, done.stderr  # of 192 MB, twice while they are sorted
