"""Where the checkout lies, and test data next to it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of Debian, or links to those of the PATH (stack/prometheus.sh). Tests that need them skip without.
_PROGRAMS = ROOT / ".stack" / "prometheus" / "usr" / "bin"
PROMTOOL, PROMETHEUS = _PROGRAMS / "promtool", _PROGRAMS / "prometheus"
SHARED_DATA = ROOT.parent / "shared" / "data"  # may be missing: tests that use it skip then
