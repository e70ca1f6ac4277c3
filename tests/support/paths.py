"""Where the checkout lies, and test data next to it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"  # may be missing: tests that use it skip then
